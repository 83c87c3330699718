"""Summary of a training report on the terminal."""


def print_summary(report: dict) -> None:
    """Print the chosen settings, and their results on test images and photos from elsewhere."""
    winner = report["winner"]
    print(
        f"best: learning rate {winner['learning_rate']:.1e}, inner size {winner['inner_size']}, "
        f"dropout {winner['dropout']}, cross-validated accuracy {winner['val_accuracy']:.3f}"
    )
    if report["test"]["images_left_out"]:
        print(
            f"left out of the test: {len(report['test']['images_left_out'])} copies of train or "
            "validation images"
        )
    for name in ("crops", "whole_photos"):
        result = report["test"][name]
        low, high = result["accuracy_interval_95"]
        print(
            f"test accuracy on {name.replace('_', ' ')}: {result['accuracy']:.2%} of "
            f"{result['pictures']} images (95 % interval {low:.1%} to {high:.1%}), calibration "
            f"error {result['calibration_error']:.1%}"
        )
    if "unknown_breeds" in report["test"]:
        unknown = report["test"]["unknown_breeds"]
        share = unknown["taken_as_known"]
        print(
            f"photos of other breeds: AUROC {unknown['auroc_whole_photos']:.3f}, "
            f"{share:.0%} taken as known"
        )
    print("turned photos: {turned_pictures_noticed:.0%} are noticed".format(**report["turn_rule"]))
    if "outside" in report:
        print_outside(report["outside"])
    rule = report["unknown_rule"]
    note = f"; {rule['note']}" if "note" in rule else ""
    print(f"unknown breeds, candidates and temperature: fitted on {rule['fitted_on']}{note}")
    print(f"{report['note']} After {report['seconds']:.0f} s", flush=True)


def print_outside(result: dict) -> None:
    """Print the results on photos from elsewhere, as `outside.measure_outside` returns them."""
    print(
        f"photos in {result['folder']} that the rules were not fitted on: accuracy "
        f"{result['accuracy']:.1%} of {result['pictures']} photos of {result['classes']} breeds, "
        f"calibration error {result['calibration_error']:.1%}, "
        f"{result['taken_as_known']:.0%} taken as known"
    )
    if "candidates" in result:
        print(
            f"their candidates: {result['candidates']:.2f} breeds on average, a single one for "
            f"{result['single_candidate']:.0%}; the right one is among them for "
            f"{result['candidates_hold_the_right_class']:.1%}"
        )
    for name, share in result.get("unknown_classes", {}).get("by_folder", {}).items():
        print(f"{name}, unknown: {share:.0%} taken as known")
