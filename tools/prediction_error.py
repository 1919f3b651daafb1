"""Compares predictions with measurements of the same minute."""

import statistics


def median_error(what, runs, predict, measure):
    """Prints each run and the median of the absolute relative errors, which it returns."""
    errors = []
    for _ in range(runs):
        guess, real = predict(), measure()
        errors.append(guess / real - 1.0)
        print(f"{what}: predicted {guess:8.2f}  measured {real:8.2f} tok/s  error {errors[-1]:+6.1%}",
              flush=True)  # fmt: skip
    median = statistics.median(abs(error) for error in errors)
    print(f"{what}: median error {median:.1%} over {len(errors)} runs", flush=True)
    return median
