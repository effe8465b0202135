"""The names of the files of a projection."""

from sg2cli.inversion import LATENT
from sg2cli.storage.ownership import OWN

SNAPSHOT, TUNING = "snapshot.safetensors", "tuning.safetensors"
TUNED, SUMMARY = "tuned.safetensors", "summary.csv"
HISTORY = "history.csv"
RESULTS = (  # of one photo; the first is written last
    *(LATENT, SNAPSHOT, TUNED, "projected_w.npz", TUNING),
    *("target.png", "projected.png", "compare.png", HISTORY, "loss.png"),
    *("film.mp4", "film.gif"),
)
SHARED = (SUMMARY, TUNED, TUNING)  # beside the folders of the photos
RESERVED = (OWN, *SHARED)
