"""Log-mel features of short clips, computed with NumPy as the authors' release computes them.

The release calls `power_to_db(melspectrogram(clip), ref=max)` of librosa 0.7 with its defaults:

- centred frames of 2,048 samples, every 512 samples; the clip is reflected at its ends;
- a periodic Hann window, and squared magnitudes of the Fourier transform;
- triangular filters of area 1 on Slaney's mel scale, from 0 to half the sampling rate;
- decibels relative to the clip's loudest entry, clipped at -80.
"""

import functools

import numpy as np

RATE = 16_000
FRAME, HOP, BANDS = 2048, 512, 128
_LOWEST_DB, _SMALLEST_POWER = -80.0, 1e-10
# Slaney's Auditory Toolbox: linear below 1,000 Hz, logarithmic above
_HZ_PER_MEL, _BREAK_HZ, _LOG_STEP = 200 / 3, 1000.0, np.log(6.4) / 27


def hz_to_mel(hz: np.ndarray) -> np.ndarray:
    """Frequencies in Hz on Slaney's mel scale."""
    hz = np.asarray(hz, np.float64)
    above = _BREAK_HZ / _HZ_PER_MEL + np.log(np.maximum(hz, _BREAK_HZ) / _BREAK_HZ) / _LOG_STEP
    return np.where(hz < _BREAK_HZ, hz / _HZ_PER_MEL, above)


def mel_to_hz(mel: np.ndarray) -> np.ndarray:
    """Frequencies in Hz of points on Slaney's mel scale; the inverse of `hz_to_mel`."""
    mel = np.asarray(mel, np.float64)
    above = _BREAK_HZ * np.exp(_LOG_STEP * np.maximum(mel - _BREAK_HZ / _HZ_PER_MEL, 0))
    return np.where(mel < _BREAK_HZ / _HZ_PER_MEL, mel * _HZ_PER_MEL, above)


@functools.cache
def band_edges() -> np.ndarray:
    """float64[BANDS + 2] Hz: band b rises from edge b to edge b + 1 and falls to edge b + 2."""
    return mel_to_hz(np.linspace(0.0, hz_to_mel(np.array(RATE / 2)), BANDS + 2))


@functools.cache
def filters() -> np.ndarray:
    """float64[BANDS, FRAME // 2 + 1]: weight of every frequency of the transform in every band."""
    hz = np.arange(FRAME // 2 + 1) * RATE / FRAME
    edge = band_edges()
    rising = (hz - edge[:-2, None]) / np.diff(edge)[:-1, None]
    falling = (edge[2:, None] - hz) / np.diff(edge)[1:, None]
    return np.maximum(0, np.minimum(rising, falling)) * (2 / (edge[2:] - edge[:-2]))[:, None]


def mel_power(clip: np.ndarray) -> np.ndarray:
    """float64[BANDS, 1 + len(clip) // HOP]: power of a clip in [-1, 1] per band and frame."""
    padded = np.pad(np.asarray(clip, np.float64), FRAME // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / FRAME)
    return filters() @ (np.abs(np.fft.rfft(frames * window, axis=1)) ** 2).T


def log_mel(clip: np.ndarray) -> np.ndarray:
    """float32[BANDS, frames]: decibels below the clip's loudest entry, from -80 to 0."""
    power = np.maximum(mel_power(clip), _SMALLEST_POWER)
    return np.maximum(10 * np.log10(power / power.max()), _LOWEST_DB).astype(np.float32)
