"""Pictures to a dataset: class subset, halves for weights and architectures, shards."""

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("prepare"), packages_to_install=[], install_kfp_package=False)
def prepare(
    config: str,
    run: str,
    dataset: dsl.Output[dsl.Dataset],
) -> None:
    """Pictures to a dataset: class subset, halves for weights and architectures, shards.

    Args:
        config: The stage's configuration as JSON.
        run: The pipeline run as JSON.
        dataset: Reference to the artifact that this stage makes.
    """
    from fpnas.stages.entry import main

    main("prepare", config, run, {}, dataset.path)
