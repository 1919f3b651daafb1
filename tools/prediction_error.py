"""Compares predictions with measurements of the same minute."""

import statistics


def median_error(what, runs, predict, measure):
    """Prints each run and the median of the absolute relative errors, which it returns.

    A measurement is compared with the mean of the predictions before and after it: the memory of a
    shared host may change between them.
    """
    errors = []
    before = predict()
    for _ in range(runs):
        real = measure()
        after = predict()
        guess = (before + after) / 2.0
        errors.append(guess / real - 1.0)
        print(f"{what}: predicted {guess:8.2f} ({before:.2f}, {after:.2f})  measured {real:8.2f} tok/s"
              f"  error {errors[-1]:+6.1%}", flush=True)  # fmt: skip
        before = after
    median = statistics.median(abs(error) for error in errors)
    print(f"{what}: median error {median:.1%} over {len(errors)} runs", flush=True)
    return median
