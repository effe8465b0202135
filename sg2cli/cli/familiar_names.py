"""Names that users know from other code: scripts, and options under other spellings.

Options are those of stylegan2-ada-pytorch, stylegan3, stylegan2 (TensorFlow), rosinality's
stylegan2-pytorch, PTI and SeFa.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

SCRIPTS = {
    **dict.fromkeys(
        ("gen_images", "generate_images", "run_generator", "gen_img", "sample"), "generate"
    ),
    **dict.fromkeys(("style_mixing", "style_mix", "stylemix", "style_mixing_example"), "mix"),
    **dict.fromkeys(
        (
            *("projector", "run_projector", "projection", "invert", "inversion"),
            *("project_real_images", "project_generated_images"),
        ),
        "project",
    ),
    **dict.fromkeys(("run_pti", "pti"), "project --tune"),
    **dict.fromkeys(
        ("gen_video", "generate_video", "interpolation", "latent_walk", "random_walk"),
        "interpolate",
    ),
    **dict.fromkeys(("closed_form_factorization", "ganspace", "factorize"), "directions"),
    **dict.fromkeys(("apply_factor", "latent_editor_wrapper", "sefa"), "edit"),
    **dict.fromkeys(
        ("convert_weight", "export_weights", "legacy", "run_convert_from_tf"), "convert"
    ),
    **dict.fromkeys(("truncation", "truncation_traversal"), "truncate"),
    **dict.fromkeys(("blend_models", "network_blending"), "blend"),
}
SUBCOMMANDS = (  # of NVIDIA's TensorFlow scripts
    *("generate-images", "style-mixing-example", "project-real-images"),
    "project-generated-images",
)
OPTIONS: dict[str, tuple[str, ...]] = {  # the first one that a command has
    **dict.fromkeys(
        ("--ckpt", "--checkpoint", "--model", "--network-pkl", "--pkl"), ("--network",)
    ),
    **dict.fromkeys(("--psi", "--truncation", "--truncation-psi", "--trunc"), ("--trunc", "--psi")),
    **dict.fromkeys(
        ("--output", "--outfile", "--out-dir", "--output-dir", "--result-dir", "--save-dir"),
        ("--out",),
    ),
    **dict.fromkeys(("--class-idx", "--label"), ("--class",)),
    **dict.fromkeys(("--step", "--num-steps", "--iterations"), ("--steps",)),
    "--num-frames": ("--frames",),
    "--w-frames": ("--frames-per-latent", "--frames"),
    "--row-seeds": ("--rows",),
    "--col-seeds": ("--cols",),
    "--col-styles": ("--styles",),
    "--style-ids": ("--styles",),
    "--dlatents": ("--latents",),
    "--learning-rate": ("--lr",),
    "--mse": ("--pixel-weight",),
    "--noise": ("--w-noise",),
    "--noise-regularize": ("--noise-weight",),
    "--layer-idx": ("--layers",),
}
FLAGS_AS_OPTIONS = {"--w-plus": ("--space", "w+")}
YES, NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
STORED_IN_NETWORK = ("--size", "--channel-multiplier", "--resolution", "--latent-dim", "--n-mlp")


def equivalent_command(
    name: str, args: Sequence[str], commands: Collection[str]
) -> list[str] | None:
    """The words of the command that does what a script does, with the script's arguments.

    None for other names. The arguments may not all fit.
    """
    script = re.sub(r"^.*[/\\]|\.py$", "", name).lower().replace("-", "_")
    rest = list(args)
    if rest and rest[0] in SUBCOMMANDS:
        script = rest.pop(0).replace("-", "_")
    command = SCRIPTS.get(script, script if name.endswith(".py") else "")
    if command.split()[:1] and command.split()[0] in commands:
        return [*command.split(), *rest]
    return None


def translate_options(
    args: Sequence[str], known: Collection[str], flags: Collection[str]
) -> list[str]:
    """The arguments of a command with its own names of options.

    `known`: the names of all its options; `flags`: of those without a value, which may be given
    as in --save-video=true.
    """
    found: list[str] = []
    for place, arg in enumerate(args):
        if arg == "--":
            return [*found, *args[place:]]
        name, equals, value = arg.partition("=")
        if not name.startswith("--"):
            if found and found[-1] in flags and arg.lower() in ("true", "false"):
                if arg.lower() == "false":
                    found.pop()
                continue
            found.append(arg)
            continue
        if name not in known:
            spelled = name.lower().replace("_", "-")
            same = [option for option in (spelled, *OPTIONS.get(spelled, ())) if option in known]
            if not same and spelled in FLAGS_AS_OPTIONS and FLAGS_AS_OPTIONS[spelled][0] in known:
                found.extend(FLAGS_AS_OPTIONS[spelled])
                continue
            name = same[0] if same else name
        if equals and name in flags and value.lower() in (*YES, *NO):
            found.extend([name] if value.lower() in YES else [])
        else:
            found.append(f"{name}{equals}{value}")
    return found


def why_unknown(name: str) -> str | None:
    """What to say of an option that other code needs and sg2 does not."""
    if name.lower().replace("_", "-") in STORED_IN_NETWORK:
        return f"No such option '{name}': the network's file records its size."
    return None
