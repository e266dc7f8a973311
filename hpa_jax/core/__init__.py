"""What every part of the package uses: classes, errors, metrics, folds, atomic files."""
