"""Fine search with the joint distribution."""

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("search"), packages_to_install=[], install_kfp_package=False)
def fine(
    config: str,
    run: str,
    dataset: dsl.Input[dsl.Dataset],
    search_state: dsl.Input[dsl.Artifact],
    fine_search_state: dsl.Output[dsl.Artifact],
) -> None:
    """Fine search with the joint distribution.

    Args:
        config: The stage's configuration as JSON.
        run: The pipeline run as JSON.
        dataset: Reference to an artifact.
        search_state: Reference to an artifact.
        fine_search_state: Reference to the artifact that this stage makes.
    """
    from fpnas.stages.entry import main

    main(
        "fine",
        config,
        run,
        {"dataset": dataset.path, "search_state": search_state.path},
        fine_search_state.path,
    )
