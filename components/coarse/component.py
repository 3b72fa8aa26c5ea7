"""Coarse search with the factorized distribution."""

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("search"), packages_to_install=[], install_kfp_package=False)
def coarse(
    config: str,
    run: str,
    dataset: dsl.Input[dsl.Dataset],
    search_state: dsl.Output[dsl.Artifact],
) -> None:
    """Coarse search with the factorized distribution.

    Args:
        config: The stage's configuration as JSON.
        run: The pipeline run as JSON.
        dataset: Reference to an artifact.
        search_state: Reference to the artifact that this stage makes.
    """
    from fpnas.stages.entry import main

    main("coarse", config, run, {"dataset": dataset.path}, search_state.path)
