// The noise of a seed, the same numbers as from `picture_noise` in ddpm_helpers/diffusion: numpy's
// SeedSequence derives a seed for each picture, PyTorch's Mersenne Twister draws uniform numbers
// from it, and the Box-Muller transform makes them normal, in blocks of 16 like torch.randn.

/** A function whose every call returns the next `size` (at least 16) standard normal numbers. */
export function pictureNoise(seed, picture, size) {
  const random = mersenneTwister(pictureSeed(seed, picture));
  return () => normal(size, random);
}

function normal(size, random) {
  const z = new Float32Array(size).map(uniform);
  for (let i = 0; i + 16 <= size; i += 16) boxMuller(z.subarray(i, i + 16));
  if (size % 16) boxMuller(z.subarray(size - 16).map(uniform)).forEach((v, j) => (z[size - 16 + j] = v));
  return z;

  function uniform() {
    return (random() & 0xffffff) / 0x1000000; // in [0, 1)
  }
}

function boxMuller(block) {
  for (let j = 0; j < 8; j++) {
    const radius = Math.sqrt(-2 * Math.log(1 - block[j]));
    const theta = 2 * Math.PI * block[j + 8];
    block[j] = radius * Math.cos(theta);
    block[j + 8] = radius * Math.sin(theta);
  }
  return block;
}

/** 32-bit numbers. Source: Matsumoto & Nishimura 1998 (MT19937). */
export function mersenneTwister(seed) {
  const N = 624;
  const M = 397;
  const state = new Uint32Array(N);
  state[0] = seed;
  for (let j = 1; j < N; j++) {
    state[j] = Math.imul(1812433253, state[j - 1] ^ (state[j - 1] >>> 30)) + j;
  }
  let next = N;

  function renew() {
    for (let j = 0; j < N; j++) {
      const y = (state[j] & 0x80000000) | (state[(j + 1) % N] & 0x7fffffff);
      state[j] = state[(j + M) % N] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    next = 0;
  }

  return () => {
    if (next === N) renew();
    let y = state[next++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  };
}

/** The low 32 bits of SeedSequence([seed, picture]).generate_state(1, uint64) >> 1. */
function pictureSeed(seed, picture) {
  const pool = entropyPool([...words(seed), ...words(picture)]);
  const hash = hasher(0x8b51f9dd, 0x58f38ded);
  const [low, high] = [hash(pool[0]), hash(pool[1])];
  return ((low >>> 1) | (high << 31)) >>> 0;
}

/** Four words, each of which depends on all of the entropy (four words at most, as here). */
function entropyPool(entropy) {
  const hash = hasher(0x43b0d7e5, 0x931e8875);
  const pool = [0, 1, 2, 3].map((i) => hash(entropy[i] ?? 0));
  for (let from = 0; from < 4; from++) {
    for (let to = 0; to < 4; to++) {
      if (from === to) continue;
      const mixed = Math.imul(0xca01f9dd, pool[to]) - Math.imul(0x4973f715, hash(pool[from]));
      pool[to] = (mixed ^ (mixed >>> 16)) >>> 0;
    }
  }
  return pool;
}

/** A hash of 32 bits that changes with every use. Source: O'Neill 2015 (seed_seq_fe), numpy's. */
function hasher(constant, factor) {
  return (word) => {
    const value = word ^ constant;
    constant = Math.imul(constant, factor);
    const product = Math.imul(value, constant);
    return (product ^ (product >>> 16)) >>> 0;
  };
}

/** A whole number below 2 ** 53 in words of 32 bits, the lowest first. */
function words(number) {
  const high = Math.floor(number / 2 ** 32);
  return high ? [number >>> 0, high] : [number >>> 0];
}
