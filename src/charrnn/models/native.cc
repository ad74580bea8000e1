// Recurrent layers for a CPU, called from JAX through XLA's foreign function interface.
//
// models/native.py packs the weights, calls these handlers, and defines the gradient:
//
//   charrnn_forward           x or ids, weights, initial state -> outputs, last state, saved gates
//   charrnn_backward          saved gates -> gradients dz of the pre-activations (in the same
//                             buffer), of x and of the initial state
//   charrnn_weight_gradient   x, h, dz -> gradients of the weights and biases
//   charrnn_registers         products on registers only, to measure the limit of a core
//
// Layout. A vector has 16 lanes, and a slot is a vector of pre-activations: one gate of 16 units. A
// tile is 6 rows of the batch x 4 slots, which fits the registers of AVX-512. A panel holds the
// weights of 4 slots for every input. In the LSTM these are the four gates of 16 units, so a tile
// has everything that the gate arithmetic of its units needs, while it is still in the L1 cache.
// The slots of a GRU are a, r, z, n; its input product needs the last three and its recurrent
// product the first three. The slots of a vanilla RNN are 64 units.
//
// A word is 32 bits: one float, or two bfloat16 neighbors of the sum of a product. The same code
// therefore multiplies both types. Sums are always in float32.
//
// Threads. Rows of a batch do not interact, so each thread computes its own rows over all steps. If
// a thread would get less than a tile, the threads divide the units of each step instead. The
// threads come from XLA's pool, and the calling thread works as well. Every sum has a fixed order,
// so results do not depend on the number of threads.

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <type_traits>
#include <vector>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

#define INLINE inline __attribute__((always_inline))

constexpr int kLanes = 16, kSlots = 4, kPanel = kLanes * kSlots;
constexpr int kRows = 6;             // rows of a tile
constexpr int64_t kBackward = 512;   // words of a block in the products of the backward pass
constexpr int64_t kGradient = 384;   // words of a block in the products of the weight gradients

typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));

// A word of an array of floats or of pairs of bfloat16.
typedef uint32_t word __attribute__((may_alias));

struct bf16 {
  uint16_t bits;
};

template <class V, class T>
INLINE V read(const T* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

template <class V, class T>
INLINE void write(T* p, const V& v) {
  std::memcpy(p, &v, sizeof v);
}

INLINE f32x16 splat(float x) { return x - f32x16{}; }

INLINE f32x16 load(const float* p) { return read<f32x16>(p); }

INLINE f32x16 load(const bf16* p) {
  u32x16 bits = __builtin_convertvector(read<u16x16>(p), u32x16) << 16;
  return read<f32x16>(&bits);
}

INLINE void store(float* p, const f32x16& x) { write(p, x); }

// Rounds to the nearest bfloat16, to even in a tie. A NaN stays a NaN.
INLINE void store(bf16* p, const f32x16& x) {
#ifdef __AVX512BF16__
  write(p, _mm512_cvtneps_pbh(reinterpret_cast<const __m512&>(x)));
#else
  u32x16 bits = read<u32x16>(&x);
  u32x16 rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  u32x16 nan = (bits >> 16) | 0x40;
  u32x16 value = (bits & 0x7fffffff) > 0x7f800000u ? nan : rounded;
  write(p, __builtin_convertvector(value, u16x16));
#endif
}

// acc += the products of a word of a row with 16 words of a panel.
template <class E>
INLINE void multiply_add(f32x16& acc, uint32_t a, const word* w) {
  if constexpr (std::is_same_v<E, float>) {
    acc += splat(read<float>(&a)) * read<f32x16>(w);
  } else {
#ifdef __AVX512BF16__
    __m512 sum = reinterpret_cast<__m512&>(acc);
    __m512i a16 = _mm512_set1_epi32(a), w16 = read<__m512i>(w);
    sum = _mm512_dpbf16_ps(sum, (__m512bh)a16, (__m512bh)w16);
    acc = reinterpret_cast<f32x16&>(sum);
#else
    uint32_t low = a << 16, high = a & 0xffff0000u;
    u32x16 bits = read<u32x16>(w), w_low = bits << 16, w_high = bits & 0xffff0000u;
    acc += splat(read<float>(&low)) * read<f32x16>(&w_low);
    acc += splat(read<float>(&high)) * read<f32x16>(&w_high);
#endif
  }
}

// The number of elements in a word.
template <class E>
constexpr int kPerWord = 4 / sizeof(E);

template <class E>
const word* words(const E* p) {
  return reinterpret_cast<const word*>(p);
}

// The shape of a sum: `chunks` runs of `words` words, of which the rows have one every `stride`
// words. The words of a panel are contiguous, `pitch` words for each word of a row.
struct Sum {
  int64_t chunks, words, stride;
};

// Adds the product of R rows with N slots of a panel to acc.
template <class E, int R, int N, int Pitch>
INLINE void multiply(f32x16 (&acc)[R][N], const word* const (&rows)[R], const word* w,
                     Sum sum) {
  const word* a[R];
  for (int r = 0; r < R; ++r) a[r] = rows[r];
  for (int64_t c = 0; c < sum.chunks; ++c) {
    for (int64_t k = 0; k < sum.words; ++k, w += Pitch) {
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int s = 0; s < N; ++s) multiply_add<E>(acc[r][s], a[r][k], w + s * kLanes);
      }
    }
    for (int r = 0; r < R; ++r) a[r] += sum.stride;
  }
}

// The number of slots whose sums of R rows fit the registers together.
template <int R>
constexpr int group() {
#ifdef __AVX512F__
  return kSlots;
#else
  return R == 1 ? 4 : R == 2 ? 2 : 1;
#endif
}

// Adds the product of R rows with N slots of a panel to `tile`, which has kSlots slots per row.
template <class E, int R, int N, int Pitch>
INLINE void multiply_tile(float* tile, const word* const (&rows)[R], const word* w,
                          Sum sum) {
  constexpr int G = std::min(group<R>(), N);
#pragma GCC unroll 4
  for (int first = 0; first + G <= N; first += G) {
    f32x16 acc[R][G];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int s = 0; s < G; ++s) acc[r][s] = load(tile + r * kPanel + (first + s) * kLanes);
    }
    multiply<E, R, G, Pitch>(acc, rows, w + first * kLanes, sum);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int s = 0; s < G; ++s) store(tile + r * kPanel + (first + s) * kLanes, acc[r][s]);
    }
  }
  if constexpr (N % G != 0) {
    constexpr int Done = N / G * G;
    multiply_tile<E, R, N - Done, Pitch>(tile + Done * kLanes, rows, w + Done * kLanes, sum);
  }
}

// tanh, by the rational approximation of Eigen and XLA. A NaN stays a NaN.
INLINE f32x16 tanh16(f32x16 x) {
  const float limit = 7.90531110763549805f;
  f32x16 y = x > limit ? splat(limit) : x;
  y = y < -limit ? splat(-limit) : y;
  f32x16 y2 = y * y;
  f32x16 p = splat(-2.76076847742355e-16f);
  p = p * y2 + 2.00018790482477e-13f;
  p = p * y2 + -8.60467152213735e-11f;
  p = p * y2 + 5.12229709037114e-08f;
  p = p * y2 + 1.48572235717979e-05f;
  p = p * y2 + 6.37261928875436e-04f;
  p = p * y2 + 4.89352455891786e-03f;
  f32x16 q = splat(1.19825839466702e-06f);
  q = q * y2 + 1.18534705686654e-04f;
  q = q * y2 + 2.26843463243900e-03f;
  q = q * y2 + 4.89352518554385e-03f;
  return y * p / q;
}

INLINE f32x16 sigmoid16(f32x16 x) { return 0.5f + 0.5f * tanh16(0.5f * x); }

// What a step reads and writes for 16 units of one row.
template <class E>
struct Unit {
  float *h, *c;            // the state in float32, updated by the step
  E* y;                    // the output
  E *gates, *saved_c;      // saved for the backward pass, or null
};

// What a backward step reads and writes for 16 units of one row.
template <class E>
struct BackwardUnit {
  const E* dy;                     // gradient of the output
  float *dh, *dc;                  // gradients of the state, updated by the step
  E* gates;                        // the gates; the step replaces them by dz
  const E* c;                      // the cell state after the step
  const float* first;              // h (GRU) or c (LSTM) before the step: the initial state, or
  const E* before;                 // ... the saved one if `first` is null
  f32x16 state_before() const { return first ? load(first) : load(before); }
};

// A cell defines the slots of a panel and the arithmetic of a row of a tile. The functions are not
// inlined, because copies could round differently and results would depend on the tile's height.

struct Lstm {
  static constexpr int kUnits = 16;                       // units of a panel
  static constexpr int kInput = 0, kInputSlots = 4;       // slots of the input product
  static constexpr int kRecurrent = 0, kRecurrentSlots = 4;

  template <class E>
  static __attribute__((noinline)) void step(const float* pre, Unit<E> u, int) {
    f32x16 i = sigmoid16(load(pre)), f = sigmoid16(load(pre + 16));
    f32x16 g = tanh16(load(pre + 32)), o = sigmoid16(load(pre + 48));
    f32x16 c = f * load(u.c) + i * g;
    f32x16 h = o * tanh16(c);
    store(u.c, c);
    store(u.h, h);
    store(u.y, h);
    if (u.gates) {
      store(u.gates, i), store(u.gates + 16, f), store(u.gates + 32, g), store(u.gates + 48, o);
      store(u.saved_c, c);
    }
  }

  template <class E>
  static __attribute__((noinline)) void backward(BackwardUnit<E> u) {
    f32x16 i = load(u.gates), f = load(u.gates + 16), g = load(u.gates + 32);
    f32x16 o = load(u.gates + 48), tanh_c = tanh16(load(u.c));
    f32x16 dh = load(u.dh) + load(u.dy);
    f32x16 dc = load(u.dc) + dh * o * (1 - tanh_c * tanh_c);
    store(u.gates, dc * g * i * (1 - i));
    store(u.gates + 16, dc * u.state_before() * f * (1 - f));
    store(u.gates + 32, dc * i * (1 - g * g));
    store(u.gates + 48, dh * tanh_c * o * (1 - o));
    store(u.dc, dc * f);
    store(u.dh, f32x16{});
  }
};

struct Gru {
  static constexpr int kUnits = 16;
  static constexpr int kInput = 1, kInputSlots = 3;          // r, z, n
  static constexpr int kRecurrent = 0, kRecurrentSlots = 3;  // a, r, z

  template <class E>
  static __attribute__((noinline)) void step(const float* pre, Unit<E> u, int) {
    f32x16 a = load(pre), r = sigmoid16(load(pre + 16)), z = sigmoid16(load(pre + 32));
    f32x16 n = tanh16(load(pre + 48) + r * a);
    f32x16 h = (1 - z) * n + z * load(u.h);
    store(u.h, h);
    store(u.y, h);
    if (u.gates)
      store(u.gates, a), store(u.gates + 16, r), store(u.gates + 32, z), store(u.gates + 48, n);
  }

  template <class E>
  static __attribute__((noinline)) void backward(BackwardUnit<E> u) {
    f32x16 a = load(u.gates), r = load(u.gates + 16), z = load(u.gates + 32);
    f32x16 n = load(u.gates + 48);
    f32x16 dh = load(u.dh) + load(u.dy);
    f32x16 dn = dh * (1 - z) * (1 - n * n);
    store(u.gates, dn * r);
    store(u.gates + 16, dn * a * r * (1 - r));
    store(u.gates + 32, dh * (u.state_before() - n) * z * (1 - z));
    store(u.gates + 48, dn);
    store(u.dh, dh * z);
  }
};

struct Rnn {
  static constexpr int kUnits = 64;
  static constexpr int kInput = 0, kInputSlots = 4;
  static constexpr int kRecurrent = 0, kRecurrentSlots = 4;

  template <class E>
  static __attribute__((noinline)) void step(const float* pre, Unit<E> u, int slots) {
    for (int s = 0; s < slots; ++s) {
      f32x16 h = tanh16(load(pre + s * kLanes));
      store(u.h + s * kLanes, h);
      store(u.y + s * kLanes, h);
      if (u.gates) store(u.gates + s * kLanes, h);
    }
  }

  template <class E>
  static __attribute__((noinline)) void backward(BackwardUnit<E> u) {
    f32x16 h = load(u.gates);
    store(u.gates, (load(u.dh) + load(u.dy)) * (1 - h * h));
    store(u.dh, f32x16{});
  }
};

// Runs f(0), ..., f(parts - 1) on the threads of the pool and on this thread. This thread waits only
// for parts that have started, so a busy pool delays nothing and cannot cause a deadlock.
template <class F>
void parallel(ffi::ThreadPool& pool, int64_t parts, const F& f) {
  struct Shared {
    std::atomic<int64_t> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable all_done;
  };
  if (parts == 1) return f(0);
  auto shared = std::make_shared<Shared>();
  // A task that starts after all parts are claimed does not touch f, which is gone by then.
  auto work = [shared, parts, &f] {
    for (int64_t part; (part = shared->next.fetch_add(1)) < parts;) {
      f(part);
      if (shared->done.fetch_add(1) + 1 == parts) {
        std::lock_guard<std::mutex> lock(shared->mutex);
        shared->all_done.notify_one();
      }
    }
  };
  for (int64_t n = 1; n < parts; ++n) pool.Schedule([work] { work(); });
  work();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->all_done.wait(lock, [&] { return shared->done.load() == parts; });
}

int64_t thread_count(ffi::ThreadPool& pool) { return std::max<int64_t>(1, pool.num_threads()); }

struct Range {
  int64_t first, last;
};

// Returns part n of `parts` parts of [0, count), whose sizes differ by at most one.
Range share(int64_t count, int64_t parts, int64_t n) {
  return {count * n / parts, count * (n + 1) / parts};
}

int64_t round_up(int64_t x, int64_t unit) { return (x + unit - 1) / unit * unit; }

// Calls f(std::integral_constant<int, R>, row) for tiles of R <= kRows rows that cover a range. The
// heights of the tiles differ by at most one.
template <class F>
void for_tiles(Range rows, const F& f) {
  int64_t count = rows.last - rows.first, tiles = (count + kRows - 1) / kRows;
  for (int64_t n = 0; n < tiles; ++n) {
    Range tile = share(count, tiles, n);
    int64_t row = rows.first + tile.first;
    switch (tile.last - tile.first) {
      case 1: f(std::integral_constant<int, 1>(), row); break;
      case 2: f(std::integral_constant<int, 2>(), row); break;
      case 3: f(std::integral_constant<int, 3>(), row); break;
      case 4: f(std::integral_constant<int, 4>(), row); break;
      case 5: f(std::integral_constant<int, 5>(), row); break;
      case 6: f(std::integral_constant<int, 6>(), row); break;
    }
  }
}

// Calls f(std::integral_constant<int, N>) for N = slots.
template <class F>
INLINE void for_slots(int64_t slots, const F& f) {
  switch (slots) {
    case 1: f(std::integral_constant<int, 1>()); break;
    case 2: f(std::integral_constant<int, 2>()); break;
    case 3: f(std::integral_constant<int, 3>()); break;
    case 4: f(std::integral_constant<int, 4>()); break;
  }
}

// The sizes of a layer. `width` is the number of columns of the saved gates and of dz.
template <class Cell>
struct Sizes {
  int64_t T, B, H, panels, width;

  Sizes(int64_t T, int64_t B, int64_t H)
      : T(T), B(B), H(H), panels(round_up(H, Cell::kUnits) / Cell::kUnits),
        width(Cell::kUnits == kLanes ? panels * kPanel : H) {}

  // Only the last panel of a vanilla RNN can have fewer slots.
  int64_t slots(int64_t panel) const {
    if (Cell::kUnits == kLanes) return kSlots;
    return std::min<int64_t>(kSlots, (H - panel * kPanel) / kLanes);
  }
  // Whether the threads divide the rows of the batch; otherwise they divide the units of each step.
  bool divides_rows(int64_t threads) const { return T > 1 && B >= kRows * threads; }
};

template <class Cell, class E>
struct Forward : Sizes<Cell> {
  using Sizes<Cell>::T;
  using Sizes<Cell>::B;
  using Sizes<Cell>::H;

  const int32_t* ids;         // [T, B], or null
  const E* x;                 // [T, B, D], or null
  int64_t D;                  // elements of a row of x
  const E* table;             // for ids: W_xh, [V, panels * input slots * 16]
  int64_t vocab;
  const word *W_x, *W_h;  // [panels, words, slots * 16]
  int64_t x_words, h_words;
  const float* bias;          // [panels * 64]
  float *h, *c;               // the state, [B, H]
  E* y;                       // the outputs, [T, B, H]
  const E* first;             // the initial h, [B, H]
  E *gates, *saved_c;         // [T, B, width] and [T, B, H], or null

  Forward(int64_t T, int64_t B, int64_t H) : Sizes<Cell>(T, B, H) {}

  void step(int64_t t, Range rows, Range panels) const {
    for (int64_t p = panels.first; p < panels.last; ++p) {
      for_tiles(rows, [&](auto R, int64_t row) {
        if constexpr (Cell::kUnits == kLanes) {
          tile<R.value, kSlots>(t, row, p);
        } else {
          for_slots(this->slots(p), [&](auto N) { tile<R.value, N.value>(t, row, p); });
        }
      });
    }
  }

  template <int R, int N>
  void tile(int64_t t, int64_t row, int64_t p) const {
    constexpr int kX = std::min(N, Cell::kInputSlots), kH = std::min(N, Cell::kRecurrentSlots);
    constexpr int kXPitch = Cell::kInputSlots * kLanes, kHPitch = Cell::kRecurrentSlots * kLanes;
    alignas(64) float pre[R * kPanel];
    for (int r = 0; r < R; ++r) {
      std::memcpy(pre + r * kPanel, bias + p * kPanel, sizeof(float) * kPanel);
      if (ids) {
        // JAX clamps an id that is out of range; a read outside of the table must not happen.
        int64_t id = std::clamp<int64_t>(ids[t * B + row + r], 0, vocab - 1);
        const E* entry = table + (id * this->panels + p) * kXPitch;
        for (int s = 0; s < kX; ++s) {
          float* sum = pre + r * kPanel + (Cell::kInput + s) * kLanes;
          store(sum, load(sum) + load(entry + s * kLanes));
        }
      }
    }
    const word* a[R];
    if (!ids) {
      for (int r = 0; r < R; ++r) a[r] = words(x + (t * B + row + r) * D);
      multiply_tile<E, R, kX, kXPitch>(pre + Cell::kInput * kLanes, a, W_x + p * x_words * kXPitch,
                                       {1, x_words, 0});
    }
    const E* before = t ? y + (t - 1) * B * H : first;
    for (int r = 0; r < R; ++r) a[r] = words(before + (row + r) * H);
    multiply_tile<E, R, kH, kHPitch>(pre + Cell::kRecurrent * kLanes, a, W_h + p * h_words * kHPitch,
                                     {1, h_words, 0});
    for (int r = 0; r < R; ++r) {
      int64_t n = t * B + row + r, unit = p * Cell::kUnits, at = (row + r) * H + unit;
      E* kept = gates ? gates + n * this->width + p * kPanel : nullptr;
      Unit<E> u{h + at, c ? c + at : nullptr, y + n * H + unit, kept,
                saved_c ? saved_c + n * H + unit : nullptr};
      Cell::step(pre + r * kPanel, u, N);
    }
  }

  void run(ffi::ThreadPool& pool) const {
    int64_t threads = thread_count(pool);
    if (this->divides_rows(threads)) {
      parallel(pool, threads, [&](int64_t n) {
        for (int64_t t = 0; t < T; ++t) step(t, share(B, threads, n), {0, this->panels});
      });
      return;
    }
    threads = std::min(threads, this->panels);
    for (int64_t t = 0; t < T; ++t) {
      parallel(pool, threads,
               [&](int64_t n) { step(t, {0, B}, share(this->panels, threads, n)); });
    }
  }
};

// A transposed weight matrix: its product with dz gives the gradient of x or h.
struct Transposed {
  const word* W;     // [output panels, chunks * words, 64]
  int64_t outputs;       // columns of the product, a multiple of 16
  int64_t offset, words, stride, chunks;  // the words of a row of dz that are summed, see Sum

  template <class Cell, class E>
  static Transposed of(const word* W, int64_t outputs, int slot, int slots, int64_t width) {
    const int64_t per_word = kPerWord<E>;
    if (Cell::kUnits != kLanes) slots = 1;
    int64_t stride = (Cell::kUnits == kLanes ? kPanel : kLanes) / per_word;
    return {W, outputs, slot * kLanes / per_word, slots * kLanes / per_word, stride,
            width / per_word / stride};
  }

  // Adds the product of `rows` of dz to `sums`, [rows, outputs]. Row 0 of both is the first row.
  template <class E>
  void add(const word* dz, int64_t dz_stride, float* sums, int64_t rows, Range panels) const {
    // A block of chunks of one panel stays in the L2 cache while all rows use it.
    int64_t block = std::max<int64_t>(1, kBackward / words);
    for (int64_t c = 0; c < chunks; c += block) {
      Sum sum{std::min(block, chunks - c), words, stride};
      for (int64_t p = panels.first; p < panels.last; ++p) {
        const word* w = W + (p * chunks + c) * words * kPanel;
        for_tiles({0, rows}, [&](auto R, int64_t row) {
          const word* a[R.value];
          for (int r = 0; r < R.value; ++r)
            a[r] = dz + (row + r) * dz_stride + offset + c * stride;
          for_slots(std::min<int64_t>(kSlots, (outputs - p * kPanel) / kLanes), [&](auto N) {
            alignas(64) float tile[R.value * kPanel];
            for (int r = 0; r < R.value; ++r) {
              float* from = sums + (row + r) * outputs + p * kPanel;
              std::memcpy(tile + r * kPanel, from, sizeof(float) * N.value * kLanes);
            }
            multiply_tile<E, R.value, N.value, kPanel>(tile, a, w, sum);
            for (int r = 0; r < R.value; ++r) {
              float* to = sums + (row + r) * outputs + p * kPanel;
              std::memcpy(to, tile + r * kPanel, sizeof(float) * N.value * kLanes);
            }
          });
        });
      }
    }
  }

  int64_t panels() const { return (outputs + kPanel - 1) / kPanel; }
  int64_t size() const { return panels() * chunks * words * kPanel; }
};

template <class Cell, class E>
struct Backward : Sizes<Cell> {
  using Sizes<Cell>::T;
  using Sizes<Cell>::B;
  using Sizes<Cell>::H;
  using Sizes<Cell>::width;

  E* gates;            // [T, B, width]; replaced by dz
  const E *y, *c;      // the outputs (GRU) and the cell states (LSTM), [T, B, H]
  const float* first;  // the initial h (GRU) or c (LSTM), [B, H]
  const E* dy;         // [T, B, H]
  float *dh, *dc;      // gradients of the state, [B, H]
  E* dx;               // [T, B, D], or null
  Transposed W_h, W_x;

  Backward(int64_t T, int64_t B, int64_t H) : Sizes<Cell>(T, B, H) {}

  void gate_step(int64_t t, Range rows, Range units) const {
    const int64_t slots = Cell::kUnits == kLanes ? kSlots : 1;
    const E* saved = std::is_same_v<Cell, Gru> ? y : c;
    for (int64_t row = rows.first; row < rows.last; ++row) {
      for (int64_t u = units.first; u < units.last; ++u) {
        int64_t n = t * B + row, unit = u * kLanes, at = row * H + unit;
        BackwardUnit<E> args{dy + n * H + unit,
                             dh + at,
                             dc ? dc + at : nullptr,
                             gates + n * width + u * slots * kLanes,
                             c ? c + n * H + unit : nullptr,
                             t ? nullptr : first + at,
                             t && saved ? saved + (n - B) * H + unit : nullptr};
        Cell::backward(args);
      }
    }
  }

  void recurrent_step(int64_t t, Range rows, Range panels) const {
    W_h.template add<E>(dz(t, rows), width / kPerWord<E>, dh + rows.first * H,
                        rows.last - rows.first, panels);
  }

  // `sums` has room for rows x D floats.
  void input_step(int64_t t, Range rows, Range panels, float* sums) const {
    const int64_t D = W_x.outputs, count = rows.last - rows.first;
    Range columns{panels.first * kPanel, std::min(panels.last * kPanel, D)};
    const int64_t bytes = sizeof(float) * (columns.last - columns.first);
    for (int64_t r = 0; r < count; ++r) std::memset(sums + r * D + columns.first, 0, bytes);
    W_x.template add<E>(dz(t, rows), width / kPerWord<E>, sums, count, panels);
    for (int64_t r = 0; r < count; ++r) {
      E* row = dx + (t * B + rows.first + r) * D;
      for (int64_t d = columns.first; d < columns.last; d += kLanes)
        store(row + d, load(sums + r * D + d));
    }
  }

  void run(ffi::ThreadPool& pool) const {
    int64_t threads = thread_count(pool), units = H / kLanes;
    std::vector<float> sums(dx ? B * W_x.outputs : 0);
    if (this->divides_rows(threads)) {
      parallel(pool, threads, [&](int64_t n) {
        Range rows = share(B, threads, n);
        for (int64_t t = T; t-- > 0;) {
          gate_step(t, rows, {0, units});
          recurrent_step(t, rows, {0, W_h.panels()});
          if (dx) input_step(t, rows, {0, W_x.panels()}, sums.data() + rows.first * W_x.outputs);
        }
      });
      return;
    }
    int64_t gate_threads = std::min(threads, units);
    int64_t panels = W_h.panels() + (dx ? W_x.panels() : 0);
    threads = std::min(threads, panels);
    for (int64_t t = T; t-- > 0;) {
      parallel(pool, gate_threads,
               [&](int64_t n) { gate_step(t, {0, B}, share(units, gate_threads, n)); });
      // The panels of both products are numbered consecutively and divided among the threads.
      parallel(pool, threads, [&](int64_t n) {
        Range part = share(panels, threads, n);
        const int64_t split = W_h.panels();
        Range h{std::min(part.first, split), std::min(part.last, split)};
        Range x{std::max(part.first, split) - split, std::max(part.last, split) - split};
        if (h.first < h.last) recurrent_step(t, {0, B}, h);
        if (x.first < x.last) input_step(t, {0, B}, x, sums.data());
      });
    }
  }

 private:
  const word* dz(int64_t t, Range rows) const {
    return words(gates + (t * B + rows.first) * width);
  }
};

// Row n of a matrix in two parts: the first rows from one array, the rest from another.
template <class E>
struct Rows {
  const E* first;
  int64_t count;
  const E* rest;
  int64_t width;
  const E* operator()(int64_t n) const {
    return n < count ? first + n * width : rest + (n - count) * width;
  }
};

template <class Cell, class E>
struct WeightGradient : Sizes<Cell> {
  using Sizes<Cell>::B;
  using Sizes<Cell>::H;
  using Sizes<Cell>::width;

  const int32_t* ids;  // [N], or null
  Rows<E> x;           // [N, D]
  Rows<E> h;           // the outputs before each step, [N, H]
  const E* dz;         // [N, width]
  int64_t N, inputs;   // inputs: D, or the size of the vocabulary
  float *dW_x, *dW_h;  // [inputs or H, panels * slots * 16]
  float* db;           // [width]

  WeightGradient(int64_t T, int64_t B, int64_t H) : Sizes<Cell>(T, B, H), N(T * B) {}

  int64_t columns(int slots) const {
    return Cell::kUnits == kLanes ? this->panels * slots * kLanes : H;
  }

  // Computes the gradients of the columns in `panels`.
  void run(Range panels) const {
    const int64_t count = panels.last - panels.first;
    const int64_t per_word = kPerWord<E>, most = kGradient * per_word;
    std::vector<uint32_t> packed_dz(count * kGradient * kPanel);
    std::vector<uint32_t> packed(round_up(std::max(ids ? 0 : inputs, H), kRows) * kGradient);
    clear(dW_h, H, Cell::kRecurrentSlots, panels);
    clear(dW_x, inputs, Cell::kInputSlots, panels);
    for (int64_t p = panels.first; p < panels.last; ++p)
      std::fill_n(db + p * kPanel, this->slots(p) * kLanes, 0.0f);
    for (int64_t n = 0; n < N; n += most) {
      int64_t rows = std::min(most, N - n);
      for (int64_t p = panels.first; p < panels.last; ++p) {
        pack_dz(n, rows, p, packed_dz.data() + (p - panels.first) * kGradient * kPanel);
        if (ids) add_ids(n, rows, p);
      }
      add<Cell::kRecurrent, Cell::kRecurrentSlots>(h, H, n, rows, panels, packed_dz, packed, dW_h);
      if (!ids)
        add<Cell::kInput, Cell::kInputSlots>(x, inputs, n, rows, panels, packed_dz, packed, dW_x);
    }
  }

 private:
  void clear(float* dW, int64_t rows, int slots, Range panels) const {
    const int64_t width = columns(slots), first = panels.first * slots * kLanes;
    const int64_t last = std::min(panels.last * slots * kLanes, width);
    for (int64_t d = 0; d < rows; ++d) std::fill(dW + d * width + first, dW + d * width + last, 0.0f);
  }

  // Packs rows [n, n + rows) of a panel of dz to [words, 64], and adds their sum to db.
  void pack_dz(int64_t n, int64_t rows, int64_t p, word* packed) const {
    for (int64_t s = 0; s < this->slots(p); ++s) {
      f32x16 sum{};
      const E* from = dz + n * width + p * kPanel + s * kLanes;
      for (int64_t k = 0; k < rows; k += kPerWord<E>) {
        const E* row = from + k * width;
        word* to = packed + k / kPerWord<E> * kPanel + s * kLanes;
        sum += load(row);
        if constexpr (std::is_same_v<E, float>) {
          store(reinterpret_cast<float*>(to), load(row));
        } else {
          const bool has_second = k + 1 < rows;
          if (has_second) sum += load(row + width);
          u16x16 second = has_second ? read<u16x16>(row + width) : u16x16{};
          write(to, interleave(read<u16x16>(row), second));
        }
      }
      float* total = db + p * kPanel + s * kLanes;
      store(total, load(total) + sum);
    }
  }

  static u32x16 interleave(u16x16 low, u16x16 high) {
    return __builtin_convertvector(low, u32x16) | (__builtin_convertvector(high, u32x16) << 16);
  }

  // Adds rows of dz to the rows of dW_x that their ids select.
  void add_ids(int64_t n, int64_t rows, int64_t p) const {
    const int64_t width_x = columns(Cell::kInputSlots);
    const int64_t slots = std::min<int64_t>(Cell::kInputSlots, this->slots(p));
    for (int64_t k = n; k < n + rows; ++k) {
      int64_t id = std::clamp<int64_t>(ids[k], 0, inputs - 1);
      float* to = dW_x + id * width_x + p * Cell::kInputSlots * kLanes;
      const E* from = dz + k * width + p * kPanel + Cell::kInput * kLanes;
      for (int64_t s = 0; s < slots; ++s)
        store(to + s * kLanes, load(to + s * kLanes) + load(from + s * kLanes));
    }
  }

  // Packs `rows` rows of a matrix from row n, transposed to [tiles of 6 columns, words, 6].
  static void pack(Rows<E> matrix, int64_t inputs, int64_t n, int64_t rows, word* packed) {
    const int64_t words = (rows + kPerWord<E> - 1) / kPerWord<E>;
    for (int64_t k = 0; k < words; ++k) {
      const E* row = matrix(n + k * kPerWord<E>);
      word* to = packed + k * kRows;
      if constexpr (std::is_same_v<E, float>) {
        const word* from = reinterpret_cast<const word*>(row);
        for (int64_t d = 0; d < inputs; d += kRows, to += words * kRows)
          for (int r = 0; r < std::min<int64_t>(kRows, inputs - d); ++r) to[r] = from[d + r];
      } else {
        const bool has_second = (k + 1) * 2 <= rows;
        const E* second = has_second ? matrix(n + k * 2 + 1) : row;
        const uint32_t mask = has_second ? 0xffffffffu : 0xffffu;
        for (int64_t d = 0; d < inputs; d += kRows, to += words * kRows)
          for (int r = 0; r < std::min<int64_t>(kRows, inputs - d); ++r)
            to[r] = (row[d + r].bits | uint32_t(second[d + r].bits) << 16) & mask;
      }
    }
  }

  template <int Slot, int Slots>
  void add(Rows<E> matrix, int64_t inputs, int64_t n, int64_t rows, Range panels,
           const std::vector<uint32_t>& packed_dz, std::vector<uint32_t>& packed,
           float* dW) const {
    const int64_t words = (rows + kPerWord<E> - 1) / kPerWord<E>, width_dW = columns(Slots);
    pack(matrix, inputs, n, rows, packed.data());
    for (int64_t p = panels.first; p < panels.last; ++p) {
      const word* w = packed_dz.data() + (p - panels.first) * kGradient * kPanel + Slot * kLanes;
      float* to = dW + p * Slots * kLanes;
      if constexpr (Cell::kUnits == kLanes) {
        add_panel<Slots>(packed.data(), inputs, words, w, to, width_dW);
      } else {
        for_slots(this->slots(p), [&](auto S) {
          add_panel<S.value>(packed.data(), inputs, words, w, to, width_dW);
        });
      }
    }
  }

  template <int Slots>
  static void add_panel(const word* packed, int64_t inputs, int64_t words, const word* w,
                        float* dW, int64_t width_dW) {
    for (int64_t d = 0; d < inputs; d += kRows) {
      const int64_t height = std::min<int64_t>(kRows, inputs - d);
      const word* a = packed + d * words;
      alignas(64) float tile[kRows * kPanel];
      for (int64_t r = 0; r < height; ++r)
        std::memcpy(tile + r * kPanel, dW + (d + r) * width_dW, sizeof(float) * Slots * kLanes);
      multiply_packed<Slots>(tile, a, w, words);
      for (int64_t r = 0; r < height; ++r)
        std::memcpy(dW + (d + r) * width_dW, tile + r * kPanel, sizeof(float) * Slots * kLanes);
    }
  }

  // Like `multiply_tile`, but the words of the 6 rows are interleaved.
  template <int N>
  static void multiply_packed(float* tile, const word* a, const word* w, int64_t words) {
    constexpr int G = std::min(group<kRows>(), N);
    static_assert(N % G == 0);
#pragma GCC unroll 4
    for (int first = 0; first < N; first += G) {
      f32x16 acc[kRows][G];
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
        for (int s = 0; s < G; ++s) acc[r][s] = load(tile + r * kPanel + (first + s) * kLanes);
      for (int64_t k = 0; k < words; ++k) {
#pragma GCC unroll 6
        for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
          for (int s = 0; s < G; ++s)
            multiply_add<E>(acc[r][s], a[k * kRows + r], w + k * kPanel + (first + s) * kLanes);
      }
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
        for (int s = 0; s < G; ++s) store(tile + r * kPanel + (first + s) * kLanes, acc[r][s]);
    }
  }
};

// Checks the operands, and runs a handler for its cell and type of products.

template <class T>
T* data(ffi::AnyBuffer buffer) {
  return buffer.element_count() ? static_cast<T*>(buffer.untyped_data()) : nullptr;
}

template <class T>
T* data(ffi::Result<ffi::AnyBuffer> buffer) {
  return data<T>(*buffer);
}

int64_t size(ffi::AnyBuffer buffer, size_t axis) { return buffer.dimensions()[axis]; }

// Calls f(Cell(), E()). `cell` is the index in models/native.py.
template <class F>
ffi::Error dispatch(int64_t cell, ffi::DataType dtype, const F& f) {
  auto with = [&](auto Cell) {
    if (dtype == ffi::F32) return f(Cell, float());
    if (dtype == ffi::BF16) return f(Cell, bf16());
    return ffi::Error::InvalidArgument("products must be in float32 or bfloat16");
  };
  switch (cell) {
    case 0: return with(Rnn());
    case 1: return with(Gru());
    case 2: return with(Lstm());
    default: return ffi::Error::InvalidArgument("unknown cell");
  }
}

ffi::Error check(bool condition) {
  if (condition) return ffi::Error::Success();
  return ffi::Error::InvalidArgument("charrnn: the shapes of the operands do not match");
}

ffi::Error forward(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer W_x, ffi::AnyBuffer W_h,
                   ffi::AnyBuffer bias, ffi::AnyBuffer first, ffi::AnyBuffer h, ffi::AnyBuffer c,
                   ffi::Result<ffi::AnyBuffer> y, ffi::Result<ffi::AnyBuffer> last_h,
                   ffi::Result<ffi::AnyBuffer> last_c, ffi::Result<ffi::AnyBuffer> gates,
                   ffi::Result<ffi::AnyBuffer> saved_c, int64_t cell) {
  return dispatch(cell, W_h.element_type(), [&](auto Cell, auto Element) {
    using E = decltype(Element);
    Forward<decltype(Cell), E> layer(size(*y, 0), size(*y, 1), size(*y, 2));
    const bool has_ids = x.element_type() == ffi::S32;
    layer.ids = has_ids ? data<int32_t>(x) : nullptr;
    layer.x = has_ids ? nullptr : data<E>(x);
    layer.D = has_ids ? 0 : size(x, 2);
    layer.table = data<E>(W_x);
    layer.vocab = size(W_x, 0);
    layer.W_x = data<word>(W_x);
    layer.W_h = data<word>(W_h);
    layer.x_words = has_ids ? 0 : size(W_x, 1);
    layer.h_words = size(W_h, 1);
    layer.bias = data<float>(bias);
    layer.h = data<float>(last_h);
    layer.c = data<float>(last_c);
    layer.y = data<E>(y);
    layer.first = data<E>(first);
    layer.gates = data<E>(gates);
    layer.saved_c = data<E>(saved_c);
    const int64_t per_word = kPerWord<E>;
    if (auto error = check(layer.H % kLanes == 0 && layer.D % per_word == 0 &&
                           layer.x_words * per_word <= layer.D &&
                           layer.h_words * per_word <= layer.H &&
                           int64_t(bias.element_count()) == layer.panels * kPanel);
        error.failure())
      return error;
    std::memcpy(layer.h, data<float>(h), h.size_bytes());
    if (layer.c) std::memcpy(layer.c, data<float>(c), c.size_bytes());
    layer.run(pool);
    return ffi::Error::Success();
  });
}

ffi::Error backward(ffi::ThreadPool pool, ffi::AnyBuffer gates, ffi::AnyBuffer y, ffi::AnyBuffer c,
                    ffi::AnyBuffer first, ffi::AnyBuffer dy, ffi::AnyBuffer last_dh,
                    ffi::AnyBuffer last_dc, ffi::AnyBuffer W_h, ffi::AnyBuffer W_x,
                    ffi::Result<ffi::AnyBuffer> dz, ffi::Result<ffi::AnyBuffer> dh,
                    ffi::Result<ffi::AnyBuffer> dc, ffi::Result<ffi::AnyBuffer> dx, int64_t cell) {
  return dispatch(cell, W_h.element_type(), [&](auto Cell, auto Element) {
    using C = decltype(Cell);
    using E = decltype(Element);
    Backward<C, E> layer(size(dy, 0), size(dy, 1), size(dy, 2));
    layer.gates = data<E>(dz);
    layer.y = data<E>(y);
    layer.c = data<E>(c);
    layer.first = data<float>(first);
    layer.dy = data<E>(dy);
    layer.dh = data<float>(dh);
    layer.dc = data<float>(dc);
    layer.dx = data<E>(dx);
    layer.W_h = Transposed::of<C, E>(data<word>(W_h), layer.H, C::kRecurrent, C::kRecurrentSlots,
                                     layer.width);
    const int64_t D = layer.dx ? size(*dx, 2) : 0;
    layer.W_x = Transposed::of<C, E>(data<word>(W_x), D, C::kInput, C::kInputSlots, layer.width);
    if (auto error = check(layer.H % kLanes == 0 && D % kLanes == 0 &&
                           size(*dz, 2) == layer.width &&
                           int64_t(W_h.size_bytes()) == 4 * layer.W_h.size() &&
                           (!layer.dx || int64_t(W_x.size_bytes()) == 4 * layer.W_x.size()));
        error.failure())
      return error;
    // XLA aliases the two buffers, unless something else still needs the gates.
    if (layer.gates != data<E>(gates)) std::memcpy(layer.gates, data<E>(gates), gates.size_bytes());
    std::memcpy(layer.dh, data<float>(last_dh), last_dh.size_bytes());
    if (layer.dc) std::memcpy(layer.dc, data<float>(last_dc), last_dc.size_bytes());
    layer.run(pool);
    return ffi::Error::Success();
  });
}

ffi::Error weight_gradient(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer first,
                           ffi::AnyBuffer y, ffi::AnyBuffer dz, ffi::Result<ffi::AnyBuffer> dW_x,
                           ffi::Result<ffi::AnyBuffer> dW_h, ffi::Result<ffi::AnyBuffer> db,
                           int64_t cell) {
  return dispatch(cell, dz.element_type(), [&](auto Cell, auto Element) {
    using E = decltype(Element);
    WeightGradient<decltype(Cell), E> layer(size(y, 0), size(y, 1), size(y, 2));
    const bool has_ids = x.element_type() == ffi::S32;
    layer.ids = has_ids ? data<int32_t>(x) : nullptr;
    const E* rows = has_ids ? nullptr : data<E>(x);
    layer.x = {rows, layer.N, rows, has_ids ? 0 : size(x, 2)};
    layer.h = {data<E>(first), layer.B, data<E>(y), layer.H};
    layer.dz = data<E>(dz);
    layer.inputs = size(*dW_x, 0);
    layer.dW_x = data<float>(dW_x);
    layer.dW_h = data<float>(dW_h);
    layer.db = data<float>(db);
    if (auto error = check(layer.H % kLanes == 0 && size(dz, 2) == layer.width &&
                           size(*dW_h, 0) == layer.H && (has_ids || layer.inputs == layer.x.width));
        error.failure())
      return error;
    const int64_t threads = std::min(thread_count(pool), layer.panels);
    parallel(pool, threads, [&](int64_t n) { layer.run(share(layer.panels, threads, n)); });
    return ffi::Error::Success();
  });
}

// A vector as wide as the registers.
#if defined(__AVX512F__)
typedef f32x16 native_vector;
#elif defined(__AVX__)
typedef float native_vector __attribute__((vector_size(32)));
#else
typedef float native_vector __attribute__((vector_size(16)));
#endif

// Multiplies and adds on registers only: 24 x 16 multiply-adds per iteration, and twice as many in
// bfloat16 with AVX512-BF16.
ffi::Error registers(ffi::ThreadPool pool, ffi::Result<ffi::AnyBuffer> result, int64_t iterations,
                     bool is_bf16) {
  constexpr int kSums = 12, kRepeats = 24 * 64 / (kSums * sizeof(native_vector));
  parallel(pool, size(*result, 0), [&](int64_t n) {
    native_vector sums[kSums]{}, a = sums[0] + 0.5f, w = sums[0] + 0.25f;
    for (int s = 0; s < kSums; ++s) sums[s] += float(s);  // equal sums would be computed once
    for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 12
      for (int r = 0; r < kRepeats; ++r) {
#pragma GCC unroll 12
        for (auto& sum : sums) {
#ifdef __AVX512BF16__
          if (is_bf16) {
            sum = (f32x16)_mm512_dpbf16_ps((__m512)sum, (__m512bh)(__m512i)a, (__m512bh)(__m512i)w);
            continue;
          }
#endif
          sum = sum * a + w;
        }
      }
    }
    float total = 0;
    for (const auto& sum : sums) total += sum[0];
    data<float>(result)[n] = total;
  });
  return ffi::Error::Success();
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT const char* charrnn_instructions() {
#if defined(__AVX512BF16__)
  return "AVX512-BF16";
#elif defined(__AVX512F__)
  return "AVX512";
#elif defined(__AVX2__) && defined(__FMA__)
  return "AVX2";
#else
  return "baseline";
#endif
}

EXPORT XLA_FFI_Error* charrnn_forward(XLA_FFI_CallFrame* frame) {
  static auto* handler = ffi::Ffi::Bind()
                             .Ctx<ffi::ThreadPool>()
                             .Arg<ffi::AnyBuffer>()   // x, [T, B, D] or ids [T, B]
                             .Arg<ffi::AnyBuffer>()   // W_x: packed, or a table
                             .Arg<ffi::AnyBuffer>()   // W_h, packed
                             .Arg<ffi::AnyBuffer>()   // bias
                             .Arg<ffi::AnyBuffer>()   // initial h in the type of products
                             .Arg<ffi::AnyBuffer>()   // initial h in float32
                             .Arg<ffi::AnyBuffer>()   // initial c, or empty
                             .Ret<ffi::AnyBuffer>()   // y
                             .Ret<ffi::AnyBuffer>()   // last h
                             .Ret<ffi::AnyBuffer>()   // last c, or empty
                             .Ret<ffi::AnyBuffer>()   // gates, or empty
                             .Ret<ffi::AnyBuffer>()   // saved c, or empty
                             .Attr<int64_t>("cell")
                             .To(forward)
                             .release();
  return handler->Call(frame);
}

EXPORT XLA_FFI_Error* charrnn_backward(XLA_FFI_CallFrame* frame) {
  static auto* handler = ffi::Ffi::Bind()
                             .Ctx<ffi::ThreadPool>()
                             .Arg<ffi::AnyBuffer>()  // gates
                             .Arg<ffi::AnyBuffer>()  // y
                             .Arg<ffi::AnyBuffer>()  // saved c, or empty
                             .Arg<ffi::AnyBuffer>()  // initial h (GRU) or c (LSTM)
                             .Arg<ffi::AnyBuffer>()  // dy
                             .Arg<ffi::AnyBuffer>()  // gradient of the last h
                             .Arg<ffi::AnyBuffer>()  // gradient of the last c, or empty
                             .Arg<ffi::AnyBuffer>()  // W_h, transposed and packed
                             .Arg<ffi::AnyBuffer>()  // W_x, likewise, or empty
                             .Ret<ffi::AnyBuffer>()  // dz
                             .Ret<ffi::AnyBuffer>()  // gradient of the initial h
                             .Ret<ffi::AnyBuffer>()  // gradient of the initial c, or empty
                             .Ret<ffi::AnyBuffer>()  // dx, or empty
                             .Attr<int64_t>("cell")
                             .To(backward)
                             .release();
  return handler->Call(frame);
}

EXPORT XLA_FFI_Error* charrnn_weight_gradient(XLA_FFI_CallFrame* frame) {
  static auto* handler = ffi::Ffi::Bind()
                             .Ctx<ffi::ThreadPool>()
                             .Arg<ffi::AnyBuffer>()  // x, [T, B, D] or ids [T, B]
                             .Arg<ffi::AnyBuffer>()  // initial h
                             .Arg<ffi::AnyBuffer>()  // y
                             .Arg<ffi::AnyBuffer>()  // dz
                             .Ret<ffi::AnyBuffer>()  // dW_x
                             .Ret<ffi::AnyBuffer>()  // dW_h
                             .Ret<ffi::AnyBuffer>()  // db
                             .Attr<int64_t>("cell")
                             .To(weight_gradient)
                             .release();
  return handler->Call(frame);
}

EXPORT XLA_FFI_Error* charrnn_registers(XLA_FFI_CallFrame* frame) {
  static auto* handler = ffi::Ffi::Bind()
                             .Ctx<ffi::ThreadPool>()
                             .Ret<ffi::AnyBuffer>()  // one number per thread, without a meaning
                             .Attr<int64_t>("iterations")
                             .Attr<bool>("bfloat16")
                             .To(registers)
                             .release();
  return handler->Call(frame);
}
