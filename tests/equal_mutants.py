"""Changed solutions that are as right as before, each with its reason.

The entries of the lists are changes, as `mutants` names them. A new entry needs a proof.
"""

EQUAL = {
    "1.2": (
        "the same dtype without the call; a number that is drawn is never 0.5",
        [
            "another comparison: np.random.default_rng((self.seed, i)).random() < 0.5 -> "
            "np.random.default_rng((self.seed, i)).random() <= 0.5",
            "a call is missing: torch.from_numpy(np.array(self.images[i])).float() -> "
            "torch.from_numpy(np.array(self.images[i]))",
        ],
    ),
    "1.3": (
        "any order that differs for each pair is right",
        [
            "swapped parts: (seed, epoch) -> (epoch, seed)",
        ],
    ),
    "2.1": (
        "axis -1 of a table is its axis 0",
        [
            "a number: 0 -> -1",
        ],
    ),
    "2.2": (
        "f(0) cancels in the ratios of (2.8), and the square of a cosine is even",
        [
            "another operator: f / f[0] -> f * f[0]",
            "a part is missing: f / f[0] -> f",
            "a sign: f / f[0] -> -f / f[0]",
            "a root or a square: f / f[0] -> f / f[0] ** 0.5",
            "a root or a square: f / f[0] -> f / f[0] ** 2",
            "a sign: f / f[0] -> f / -f[0]",
            "an index by one: f[0] -> f[0 + -1]",
            "an index by one: f[0] -> f[0 + 1]",
            "a sign: (t / T + offset) / (1 + offset) * math.pi / 2 -> "
            "-((t / T + offset) / (1 + offset) * math.pi) / 2",
            "a number: 0 -> 1",
            "a number: 0 -> -1",
            "a sign: (t / T + offset) / (1 + offset) * math.pi -> "
            "-((t / T + offset) / (1 + offset)) * math.pi",
            "a sign: (t / T + offset) / (1 + offset) * math.pi -> "
            "(t / T + offset) / (1 + offset) * -math.pi",
            "a sign: (t / T + offset) / (1 + offset) -> -(t / T + offset) / (1 + offset)",
            "a sign: (t / T + offset) / (1 + offset) -> (t / T + offset) / -(1 + offset)",
        ],
    ),
    "2.3": (
        "the root is squared; no beta lies above the clip of 1; axis -1 of a table is its axis 0",
        [
            "a number: 0.999 -> 1.999",
            "a number: 0.999 -> -0.0010000000000000009",
            "a number: 0.999 -> 1.998",
            "a number: 0.999 -> 0.4995",
            "a call is missing: (1 - bar[1:] / bar[:-1]).clamp(max=clip) -> 1 - bar[1:] / bar[:-1]",
            "a sign: (root[1:] - last) * first / (first - last) -> "
            "-((root[1:] - last) * first) / (first - last)",
            "a sign: (root[1:] - last) * first / (first - last) -> "
            "(root[1:] - last) * first / -(first - last)",
            "a sign: (root[1:] - last) * first -> -(root[1:] - last) * first",
            "a sign: (root[1:] - last) * first -> (root[1:] - last) * -first",
            "swapped sides: first - last -> last - first",
            "swapped sides: root[1:] - last -> last - root[1:]",
            "a number: 1.0 -> 2.0",
            "a number: 0 -> -1",
        ],
    ),
    "3.2": (
        "axis -1 of a vector is its axis 0, and a difference is squared",
        [
            "a number: 0 -> -1",
            "swapped sides: x_t - bar ** 0.5 * points -> bar ** 0.5 * points - x_t",
        ],
    ),
    "4.1": (
        "dim is even",
        [
            "another operator: dim // 2 -> dim / 2",
        ],
    ),
    "4.2": (
        "queries, keys and values have vectors of one length",
        [
            "another variable: q in line 2, column 49 -> k",
            "another variable: q in line 2, column 49 -> v",
        ],
    ),
    "4.3": (
        "B and C are joined again at the end",
        [
            "swapped arguments: x.reshape(B, C, H // 2, 2, W // 2, 2) -> "
            "x.reshape(C, B, H // 2, 2, W // 2, 2)",
        ],
    ),
    "5.1": (
        "the difference is squared",
        [
            "swapped sides: model(x_t, t) - eps -> eps - model(x_t, t)",
        ],
    ),
    "5.2": (
        "the cosine is even, and both branches meet at k = W",
        [
            "another comparison: k <= W -> k < W",
            "a sign: (k - W) / (K - W) -> -(k - W) / (K - W)",
            "a sign: (k - W) / (K - W) -> (k - W) / -(K - W)",
            "swapped sides: k - W -> W - k",
            "swapped sides: K - W -> W - K",
            "a sign: math.pi * done -> -math.pi * done",
            "a sign: math.pi * done -> math.pi * -done",
        ],
    ),
    "5.3": (
        "the branch of a gradient of length 0, which is not asked for",
        [
            "one branch alone: min(1.0, longest / length) if length > 0 else 1.0 -> "
            "min(1.0, longest / length)",
            "another comparison: length > 0 -> length >= 0",
            "a number: 1.0 -> 2.0",
            "a number: 1.0 -> 0.0",
            "a number: 1.0 -> 0.5",
            "a number: 0 -> -1",
            "another variable: length in line 3, column 43 -> longest",
        ],
    ),
    "6.1": (
        "the difference is squared",
        [
            "swapped sides: walk[:, None] - faint -> faint - walk[:, None]",
        ],
    ),
    "8.1": (
        "a number that is drawn is never equal to `share`",
        [
            "another comparison: torch.rand(len(y), device=y.device) < share -> "
            "torch.rand(len(y), device=y.device) <= share",
        ],
    ),
    "9.1": (
        "a distance is symmetric",
        [
            "swapped parts: (torch.cov(a.T), torch.cov(b.T)) -> (torch.cov(b.T), torch.cov(a.T))",
            "swapped sides: a.mean(0) - b.mean(0) -> b.mean(0) - a.mean(0)",
            "swapped sides: C_a @ C_b -> C_b @ C_a",
        ],
    ),
    "9.2": (
        "distances within a set are symmetric, and no two of them are equal",
        [
            "an option is missing: torch.cdist(cloud, cloud).kthvalue(4, dim=1) -> "
            "torch.cdist(cloud, cloud).kthvalue(4)",
            "a number: 1 -> 0",
            "another comparison: torch.cdist(points, cloud) <= radius -> "
            "torch.cdist(points, cloud) < radius",
        ],
    ),
    "10.1": (
        "no largest value is 1.001",
        [
            "another comparison: x.abs().max() > 1.001 -> x.abs().max() >= 1.001",
        ],
    ),
    "10.2": (
        "the dtype is not asked for",
        [
            "a call is missing: bar[t].view(-1, 1, 1, 1).float() -> bar[t].view(-1, 1, 1, 1)",
        ],
    ),
    "10.3": (
        "the difference is squared",
        [
            "swapped sides: sample(oracle, x_T) - x_0 -> x_0 - sample(oracle, x_T)",
        ],
    ),
    "11.2": (
        "the distance is squared",
        [
            "swapped sides: z[:, None] - (1 - s) * points -> (1 - s) * points - z[:, None]",
        ],
    ),
    "11.4": (
        "the difference is squared",
        [
            "swapped sides: student(x_t, t) - goal -> goal - student(x_t, t)",
        ],
    ),
    "12.2": (
        "the width is a multiple of 4, and arange takes the quotient as it is",
        [
            "another operator: width // 4 -> width / 4",
        ],
    ),
    "12.4": (
        "the difference is squared",
        [
            "swapped sides: x_0_pred - x_0 -> x_0 - x_0_pred",
        ],
    ),
}
