"""The most probable architecture within the budget."""

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("decode"), packages_to_install=[], install_kfp_package=False)
def decode(
    config: str,
    run: str,
    search_state: dsl.Input[dsl.Artifact],
    architecture: dsl.Output[dsl.Artifact],
) -> None:
    """The most probable architecture within the budget.

    Args:
        config: The stage's configuration as JSON.
        run: The pipeline run as JSON.
        search_state: Reference to an artifact.
        architecture: Reference to the artifact that this stage makes.
    """
    from fpnas.stages.entry import main

    main("decode", config, run, {"search_state": search_state.path}, architecture.path)
