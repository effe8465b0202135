from sg2cli.checkpoints import load as load
from sg2cli.checkpoints.blending import blend as blend
from sg2cli.checkpoints.conversion import Conversion as Conversion
from sg2cli.checkpoints.conversion import convert as convert
from sg2cli.errors import CheckpointError as CheckpointError
from sg2cli.errors import Sg2Error as Sg2Error
from sg2cli.errors import UsageError as UsageError
from sg2cli.file_info import info as info
from sg2cli.generator import Generator as Generator
from sg2cli.inversion.project import project as project
from sg2cli.inversion.project_batch import project_batch as project_batch
from sg2cli.inversion.projection import Projection as Projection
from sg2cli.latents.discovery import Directions as Directions
from sg2cli.latents.discovery import directions as directions
from sg2cli.latents.named_directions import NamedDirections as NamedDirections
from sg2cli.latents.named_directions import name_directions as name_directions
from sg2cli.latents.named_directions import named_directions as named_directions
from sg2cli.latents.sources import Latent as Latent
from sg2cli.sampling.edit import edit as edit
from sg2cli.sampling.generate import generate as generate
from sg2cli.sampling.images import Image as Image
from sg2cli.sampling.images import Images as Images
from sg2cli.sampling.interpolate import interpolate as interpolate
from sg2cli.sampling.learn import learn_direction as learn_direction
from sg2cli.sampling.mix import mix as mix
from sg2cli.sampling.truncate import truncate as truncate

__version__: str
