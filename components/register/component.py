"""Comparison, registry and report."""

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("train"), packages_to_install=[], install_kfp_package=False)
def register(
    config: str,
    run: str,
    dataset: dsl.Input[dsl.Dataset],
    coarse: dsl.Input[dsl.Artifact],
    fine: dsl.Input[dsl.Artifact],
    architecture: dsl.Input[dsl.Artifact],
    trained: dsl.Input[dsl.Model],
    distilled: dsl.Input[dsl.Model],
    report: dsl.Output[dsl.Artifact],
) -> None:
    """Comparison, registry and report.

    Args:
        config: The stage's configuration as JSON.
        run: The pipeline run as JSON.
        dataset: Reference to an artifact.
        coarse: Reference to an artifact.
        fine: Reference to an artifact.
        architecture: Reference to an artifact.
        trained: Reference to an artifact.
        distilled: Reference to an artifact.
        report: Reference to the artifact that this stage makes.
    """
    from fpnas.stages.entry import main

    main(
        "register",
        config,
        run,
        {
            "dataset": dataset.path,
            "coarse": coarse.path,
            "fine": fine.path,
            "architecture": architecture.path,
            "trained": trained.path,
            "distilled": distilled.path,
        },
        report.path,
    )
