"""ij_few_learn's recursion in float32 on the features and distances of FILE.npy, and the closed solution in double.
Usage: few.py FILE.npy (and FILE.labels.npy beside it, as `ijepa features` writes them)"""
import sys
import numpy as np

f, y = np.load(sys.argv[1]), np.load(sys.argv[1].replace(".npy", ".labels.npy"))[:, 1]
z = np.concatenate([np.ones((len(f), 1), np.float32), f], 1)
P, W, d = np.eye(z.shape[1], dtype=np.float32), np.zeros((6, z.shape[1]), np.float32), f / np.linalg.norm(f, axis=1, keepdims=True)
for n in range(2000):
    g = P @ z[n]
    a = 1 + z[n] @ g
    W += np.outer((np.arange(6) == y[n]).astype(np.float32) - W @ z[n], g) / a
    P -= np.outer(g, g) / a
    if n + 1 in (50, 200, 1000, 2000):
        A, Y = z[: n + 1].astype(np.float64), np.eye(6)[y[: n + 1]]
        R = np.linalg.solve(A.T @ A + np.eye(A.shape[1]), A.T @ Y).T
        M = np.stack([d[: n + 1][y[: n + 1] == c].sum(0) for c in range(6)])
        worst, right = np.abs(W - R).max() / np.abs(R).max(), (np.argmax(z[2000:] @ W.T, 1) == y[2000:]).mean()
        means = (np.argmax(d[2000:] @ (M / np.linalg.norm(M, axis=1, keepdims=True)).T, 1) == y[2000:]).mean()
        print(f"{n + 1} images: ridge {100 * right:.1f} %, class means {100 * means:.1f} % of {len(f) - 2000} others; weights within {worst:.1e}")
        assert worst < 1e-4
