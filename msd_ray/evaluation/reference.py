"""Reference statistics as EDM keeps them: an npz file with the mean `mu` [d] and the covariance `sigma` [d, d] of the
features of a whole set of real samples."""

import io
import posixpath
import zipfile

import numpy as np

from msd_ray.errors import UserError, one_line
from msd_ray.evaluation.feature_distances import Features, Moments
from msd_ray.storage import Store

KEYS = ("mu", "sigma")
MOST = 2**30
"""Bytes of an array that is read; 8,192 features have half as many."""
DAMAGE = (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError)


def read_reference(path: str, dimensions: int) -> Moments:
    """The moments in a file, which holds plain arrays alone: nothing in it is unpickled. How many samples they are of
    is not kept there, so `n` says 2. Raises UserError where it is no such file, or is of other features."""
    mu, sigma = _arrays(path)
    d = len(mu) if mu.ndim == 1 else 0
    if d < 1 or sigma.shape != (d, d):
        raise UserError(f"{path}: mu must be [d] and sigma [d, d], not {list(mu.shape)} and {list(sigma.shape)}")
    if d != dimensions:
        raise UserError(f"{path} is of {d} features, but those of evaluation.features are {dimensions}")
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise UserError(f"{path}: mu or sigma holds what is not a finite number")
    if not np.allclose(sigma, sigma.T, rtol=1e-6, atol=1e-8 * np.abs(sigma).max()) or (np.diag(sigma) < 0).any():
        raise UserError(f"{path}: sigma is no covariance: it must be symmetric, without negative variances")
    return Moments(2, mu, sigma)  # the covariance of two samples is their scatter


def write_reference(store: Store, name: str, moments: Moments) -> None:
    """Writes the file that `read_reference`, and EDM's own programs, read."""
    buffer = io.BytesIO()
    np.savez(buffer, mu=moments.mean, sigma=moments.covariance)
    store.write(name, buffer.getvalue())


def _arrays(path: str) -> tuple[Features, Features]:
    folder, name = posixpath.split(path)
    try:
        content = Store(folder or ".").read(name)
        with zipfile.ZipFile(io.BytesIO(content)) as members:
            if missing := [key for key in KEYS if f"{key}.npy" not in members.namelist()]:
                raise UserError(f"{path} has no {missing[0]}: it must be an npz file with mu and sigma, as EDM's are")
            if max(members.getinfo(f"{key}.npy").file_size for key in KEYS) > MOST:
                raise UserError(f"{path}: its arrays are too large for statistics of features")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            mu, sigma = (np.asarray(arrays[key]) for key in KEYS)
    except FileNotFoundError:
        raise UserError(f"evaluation.reference: there is no {path}") from None
    except DAMAGE as error:
        raise UserError(f"{path} cannot be read as an npz file: {one_line(error)}") from None
    if mu.dtype.kind != "f" or sigma.dtype.kind != "f":
        raise UserError(f"{path}: mu and sigma must be floats, not {mu.dtype} and {sigma.dtype}")
    return mu.astype(np.float64), sigma.astype(np.float64)
