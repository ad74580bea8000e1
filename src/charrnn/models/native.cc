// Recurrent layers and the output layer for a CPU, called from JAX through XLA's foreign function
// interface. models/native.py calls these handlers and defines the gradients:
//
//   charrnn_pack              a weight matrix -> its panels
//   charrnn_forward           x or ids, weights, initial state -> outputs, last state, saved gates
//   charrnn_backward          saved gates -> gradients dz of the pre-activations (in the same
//                             buffer), of x and of the initial state
//   charrnn_weight_gradient   x, h, dz -> gradients of the weights and biases
//   charrnn_linear            x, weights, bias -> outputs of the output layer
//   charrnn_linear_gradient   x, weights, gradient of the outputs -> gradients of x, weights, bias
//   charrnn_registers         products in registers, to measure the limit of the cores
//
// Layout. A slot is 16 lanes of pre-activations: one gate of 16 units. A tile is 6 rows of the
// batch x 4 slots, which fits in the registers of AVX-512. With AMX, a tile of bfloat16 products is
// 16 rows x 4 slots, which fits in 4 of the 8 tile registers. A panel holds the weights of up to 4
// slots for all inputs. In the LSTM these are the four gates of 16 units, so a tile has everything
// that the gate arithmetic of its units needs, and is still in the L1 cache. The slots of a GRU are
// a, r, z, n; its input product needs the last three and its recurrent product the first three. The
// slots of a vanilla RNN, and of the output layer, are 64 units.
//
// A word is 32 bits: one float, or two bfloat16 values that are neighbors in the sum of a product.
// The same layout therefore serves both types, and AMX reads panels of bfloat16 unchanged. Sums are
// always in float32.
//
// Threads. Rows of a batch do not interact, so each thread computes its own rows over all steps. If
// there is only one step, or a thread would get fewer than 6 rows, the threads divide the units of
// each step instead. The threads come from XLA's pool, and the calling thread works as well. Every
// sum has a fixed order, so results do not depend on the number of threads.

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

// charrnn defines NO_TILES if Linux does not let it use AMX.
#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && !defined(NO_TILES)
#define TILES
#endif

#define INLINE inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline))

// A vector fills a register, and `kVectors` vectors are a slot of 16 lanes.
#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif
constexpr int kLanes = 16, kSlots = 4, kPanel = kLanes * kSlots, kVectors = kLanes / kWidth;
constexpr int kRows = 6;               // rows of a tile in vector registers
constexpr int kTileRows = 16;          // rows, and words of a row, of a tile register of AMX
constexpr int64_t kBackward = 512;     // words of a block in the products of the backward pass
constexpr int64_t kGradient = 384;     // words of a block in the products of the weight gradients
constexpr int64_t kParts = 4;          // maximum number of parts per thread, if their size is free
constexpr int64_t kMinimum = 1 << 18;  // minimum multiply-adds of a part: 5 to 10 microseconds
constexpr int64_t kGates = 64;         // multiply-adds that take as long as the gates of a unit
constexpr int64_t kCopy = 16;          // multiply-adds that take as long as packing a weight

// Vectors.

typedef float f32v __attribute__((vector_size(4 * kWidth)));
typedef uint32_t u32v __attribute__((vector_size(4 * kWidth)));
typedef uint16_t u16v __attribute__((vector_size(2 * kWidth)));

// A word of an array of floats or of pairs of bfloat16.
typedef uint32_t word __attribute__((may_alias));

struct bf16 {
  uint16_t bits;
};

// The number of elements in a word.
template <class E>
constexpr int kPerWord = 4 / sizeof(E);

template <class E>
const word* words(const E* p) {
  return reinterpret_cast<const word*>(p);
}

// True if products of E use the tile registers.
template <class E>
constexpr bool kTiles =
#ifdef TILES
    std::is_same_v<E, bf16>;
#else
    false;
#endif

// The maximum number of rows of a tile.
template <class E>
constexpr int kHeight = kTiles<E> ? kTileRows : kRows;

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

INLINE f32v splat(float x) { return x - f32v{}; }

INLINE f32v load(const float* p) { return read<f32v>(p); }

INLINE f32v load(const bf16* p) {
  u32v bits = __builtin_convertvector(read<u16v>(p), u32v) << 16;
  return read<f32v>(&bits);
}

INLINE void store(float* p, const f32v& x) { write(p, x); }

// Rounds to the nearest bfloat16, ties to even. A NaN stays a NaN.
INLINE u16v round(const f32v& x) {
#ifdef __AVX512BF16__
  auto rounded = _mm512_cvtneps_pbh(reinterpret_cast<const __m512&>(x));
  return read<u16v>(&rounded);
#else
  u32v bits = read<u32v>(&x);
  u32v rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  u32v nan = (bits >> 16) | 0x40;
  u32v value = (bits & 0x7fffffff) > 0x7f800000u ? nan : rounded;
  return __builtin_convertvector(value, u16v);
#endif
}

INLINE void store(bf16* p, const f32v& x) { write(p, round(x)); }

// Returns the words of two bfloat16 vectors; the low halves are the elements of the first.
INLINE u32v interleave(u16v low, u16v high) {
  return __builtin_convertvector(low, u32v) | (__builtin_convertvector(high, u32v) << 16);
}

// Copies the first `count` floats of a slot, and fills the rest of its 16 lanes with zeros.
INLINE void copy_slot(float* to, const float* from, int64_t count) {
  if (count >= kLanes) {
    std::memcpy(to, from, sizeof(float) * kLanes);
  } else {
    std::fill_n(to, kLanes, 0.0f);
    if (count > 0) std::memcpy(to, from, sizeof(float) * count);
  }
}

// Products.

// Adds the products of a word of a row with the words of a panel to `acc`.
template <class E>
INLINE void multiply_add(f32v& acc, uint32_t a, const word* w) {
  if constexpr (std::is_same_v<E, float>) {
    acc += splat(read<float>(&a)) * read<f32v>(w);
  } else {
#ifdef __AVX512BF16__
    __m512 sum = reinterpret_cast<__m512&>(acc);
    sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32(a), (__m512bh)read<__m512i>(w));
    acc = reinterpret_cast<f32v&>(sum);
#else
    uint32_t low = a << 16, high = a & 0xffff0000u;
    u32v bits = read<u32v>(w), w_low = bits << 16, w_high = bits & 0xffff0000u;
    acc += splat(read<float>(&low)) * read<f32v>(&w_low);
    acc += splat(read<float>(&high)) * read<f32v>(&w_high);
#endif
  }
}

// The shape of a sum: `chunks` runs of `words` words, one run every `stride` words of a row. A
// panel has `pitch` words for each of them.
struct Sum {
  int64_t chunks, words, stride, pitch;
};

// The number of slots whose sums of R rows fit in the registers: 32 with AVX-512, 16 with AVX2.
template <int R>
constexpr int group() {
  return kWidth == 16 || R == 1 ? 4 : R == 2 ? 2 : 1;
}

// The left operand of a product: `row` words from one row to the next, and `Step` words from one word of a
// row to the next.
template <int Step = 1>
struct Left {
  const word* first;
  int64_t row;
};

// Adds the products of R rows with N slots of a panel to a tile, whose rows have kPanel floats.
template <class E, int R, int N, int Step>
NOINLINE void multiply_tile(float* tile, Left<Step> rows, const word* w, const Sum& sum) {
  constexpr int G = std::min(group<R>(), N), V = G * kVectors;
  f32v acc[R][V];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) acc[r][v] = load(tile + r * kPanel + v * kWidth);
  const word *a[R], *p = w;
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) a[r] = rows.first + r * rows.row;
  for (int64_t c = 0; c < sum.chunks; ++c) {
    for (int64_t k = 0; k < sum.words; ++k, p += sum.pitch) {
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) multiply_add<E>(acc[r][v], a[r][k * Step], p + v * kWidth);
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) a[r] += sum.stride;
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) store(tile + r * kPanel + v * kWidth, acc[r][v]);
  if constexpr (N > G)
    multiply_tile<E, R, N - G, Step>(tile + G * kLanes, rows, w + G * kLanes, sum);
}

#ifdef TILES
// Tile registers 0 to 3 hold the sums of the slots. Register 4 holds 16 words of each row, and 5 the
// same words of a slot of the panel. Registers 6 and 7 do the same for 8 words.

// The height for which the tile registers of this thread are configured. 0: not configured, or
// possibly changed by other code.
thread_local int configured_height = 0;

// Configures the tile registers of this thread for tiles of `height` rows.
NOINLINE void configure_tiles(int height) {
  if (configured_height == height) return;
  configured_height = height;
  struct {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 32, 64};
    uint8_t rows[16] = {};
  } config;
  for (int n : {0, 1, 2, 3, 4, 6}) config.rows[n] = height;
  config.rows[5] = kTileRows, config.rows[7] = kTileRows / 2;
  asm volatile("" : : "r"(&config) : "memory");  // GCC declares only 8 bytes as read
  _tile_loadconfig(&config);
}

// Adds the products of the rows with a slot of the panel to the sums of the slot. `bytes` is the
// distance between words of the panel, in bytes.
#define ADD_SLOT(slot, rows, weights, w, bytes)       \
  if constexpr (N > slot) {                           \
    _tile_loadd(weights, (w) + slot * kLanes, bytes); \
    _tile_dpbf16ps(slot, rows, weights);              \
  }

// Adds the products of `height` rows with N slots of a panel to a tile. The words of a run must be
// a multiple of 8.
template <int N>
NOINLINE void multiply_tile_registers(float* tile, int height, Left<> rows, const word* w,
                                      const Sum& sum) {
  constexpr int64_t kBytes = sizeof(float) * kPanel, kHalf = kTileRows / 2;
  configure_tiles(height);
  // GCC does not know what memory the instructions access.
  asm volatile("" ::: "memory");
  _tile_loadd(0, tile, kBytes);
  if constexpr (N > 1) _tile_loadd(1, tile + kLanes, kBytes);
  if constexpr (N > 2) _tile_loadd(2, tile + 2 * kLanes, kBytes);
  if constexpr (N > 3) _tile_loadd(3, tile + 3 * kLanes, kBytes);
  const int64_t row = rows.row * sizeof(word), pitch = sum.pitch * sizeof(word);
  const word* a = rows.first;
  for (int64_t c = 0; c < sum.chunks; ++c, a += sum.stride) {
    int64_t k = 0;
    for (; k + kTileRows <= sum.words; k += kTileRows, w += kTileRows * sum.pitch) {
      _tile_loadd(4, a + k, row);
      ADD_SLOT(0, 4, 5, w, pitch)
      ADD_SLOT(1, 4, 5, w, pitch)
      ADD_SLOT(2, 4, 5, w, pitch)
      ADD_SLOT(3, 4, 5, w, pitch)
    }
    if (k < sum.words) {
      _tile_loadd(6, a + k, row);
      ADD_SLOT(0, 6, 7, w, pitch)
      ADD_SLOT(1, 6, 7, w, pitch)
      ADD_SLOT(2, 6, 7, w, pitch)
      ADD_SLOT(3, 6, 7, w, pitch)
      w += kHalf * sum.pitch;
    }
  }
  _tile_stored(0, tile, kBytes);
  if constexpr (N > 1) _tile_stored(1, tile + kLanes, kBytes);
  if constexpr (N > 2) _tile_stored(2, tile + 2 * kLanes, kBytes);
  if constexpr (N > 3) _tile_stored(3, tile + 3 * kLanes, kBytes);
}
#undef ADD_SLOT
#endif

// Runs a part of the work of a thread, and releases the tile registers that it used. Other code on
// the thread may also use them, and registers in use are saved at each context switch.
template <class F>
INLINE void run_part(const F& f, int64_t part) {
  f(part);
#ifdef TILES
  if (configured_height) _tile_release(), configured_height = 0;
#endif
}

// tanh by the rational approximation that Eigen and XLA use. A NaN stays a NaN.
INLINE f32v tanh_of(f32v x) {
  const float limit = 7.90531110763549805f;
  f32v y = x > limit ? splat(limit) : x;
  y = y < -limit ? splat(-limit) : y;
  f32v y2 = y * y;
  f32v p = splat(-2.76076847742355e-16f);
  p = p * y2 + 2.00018790482477e-13f;
  p = p * y2 + -8.60467152213735e-11f;
  p = p * y2 + 5.12229709037114e-08f;
  p = p * y2 + 1.48572235717979e-05f;
  p = p * y2 + 6.37261928875436e-04f;
  p = p * y2 + 4.89352455891786e-03f;
  f32v q = splat(1.19825839466702e-06f);
  q = q * y2 + 1.18534705686654e-04f;
  q = q * y2 + 2.26843463243900e-03f;
  q = q * y2 + 4.89352518554385e-03f;
  return y * p / q;
}

INLINE f32v sigmoid(f32v x) { return 0.5f + 0.5f * tanh_of(0.5f * x); }

// Cells.

// The data of a step for the units of a panel. Pointers are for the first of several rows. Rows of
// the state and of the outputs have H elements, and rows of the saved gates have `width`.
template <class E>
struct Step {
  int64_t H, width;
  float *h, *c;        // the state in float32; updated
  E* y;                // the outputs
  E *gates, *saved_c;  // saved for the backward pass, or null
};

// The data of a backward step for the units of a row.
template <class E>
struct BackwardStep {
  int64_t H;
  const E* dy;         // gradient of the output
  float *dh, *dc;      // gradients of the state; updated
  E* gates;            // the gates; replaced by dz
  const E* c;          // LSTM: the cell state after the step
  const float* first;  // at the first step: the initial h (GRU) or c (LSTM); otherwise null
  const E* before;     // at other steps: the saved h or c before the step; otherwise null

  INLINE f32v state_before(int64_t unit) const {
    return first ? load(first + unit) : load(before + unit);
  }
};

// Calls f(row, n) for the vectors of the first n columns of several rows.
template <class F>
INLINE void for_vectors(int rows, int columns, const F& f) {
  for (int r = 0; r < rows; ++r)
    for (int n = 0; n < columns; n += kWidth) f(r, n);
}

// The position of the first gate of a unit in a row of saved gates, in panels of 16 units.
INLINE int64_t gate_offset(int64_t unit) {
  return unit / kLanes * kPanel + unit % kLanes;
}

// A cell defines the slots of a panel and the arithmetic of the gates. Every row takes the same
// compiled code, whatever the shape of its tile, so that results do not depend on the shapes.

struct Lstm {
  static constexpr int kUnits = 16;                        // units of a panel
  static constexpr int kInput = 0, kInputSlots = 4;        // slots of the input product
  static constexpr int kRecurrent = 0, kRecurrentSlots = 4;
  static constexpr int kInputGates[] = {0, 1, 2, 3};       // gates of these slots
  static constexpr int kRecurrentGates[] = {0, 1, 2, 3};

  template <class E>
  static NOINLINE void forward(const float* pre, int rows, int, const Step<E>& u) {
    for_vectors(rows, kLanes, [&](int r, int n) {
      const float* z = pre + r * kPanel + n;
      const int64_t at = r * u.H + n;
      f32v i = sigmoid(load(z)), f = sigmoid(load(z + 16));
      f32v g = tanh_of(load(z + 32)), o = sigmoid(load(z + 48));
      f32v c = f * load(u.c + at) + i * g;
      f32v h = o * tanh_of(c);
      store(u.c + at, c);
      store(u.h + at, h);
      store(u.y + at, h);
      if (u.gates) {
        E* saved = u.gates + r * u.width + n;
        store(saved, i), store(saved + 16, f), store(saved + 32, g), store(saved + 48, o);
        store(u.saved_c + at, c);
      }
    });
  }

  template <class E>
  static NOINLINE void backward(int64_t first, int64_t last, const BackwardStep<E>& u) {
    for (int64_t n = first; n < last; n += kWidth) {
      E* gates = u.gates + gate_offset(n);
      f32v i = load(gates), f = load(gates + 16), g = load(gates + 32), o = load(gates + 48);
      f32v tanh_c = tanh_of(load(u.c + n));
      f32v dh = load(u.dh + n) + load(u.dy + n);
      f32v dc = load(u.dc + n) + dh * o * (1 - tanh_c * tanh_c);
      store(gates, dc * g * i * (1 - i));
      store(gates + 16, dc * u.state_before(n) * f * (1 - f));
      store(gates + 32, dc * i * (1 - g * g));
      store(gates + 48, dh * tanh_c * o * (1 - o));
      store(u.dc + n, dc * f);
      store(u.dh + n, f32v{});
    }
  }
};

struct Gru {
  static constexpr int kUnits = 16;
  static constexpr int kInput = 1, kInputSlots = 3;          // r, z, n
  static constexpr int kRecurrent = 0, kRecurrentSlots = 3;  // a, r, z
  static constexpr int kInputGates[] = {0, 1, 2};
  static constexpr int kRecurrentGates[] = {2, 0, 1};

  template <class E>
  static NOINLINE void forward(const float* pre, int rows, int, const Step<E>& u) {
    for_vectors(rows, kLanes, [&](int row, int unit) {
      const float* sum = pre + row * kPanel + unit;
      const int64_t at = row * u.H + unit;
      f32v a = load(sum), r = sigmoid(load(sum + 16)), z = sigmoid(load(sum + 32));
      f32v n = tanh_of(load(sum + 48) + r * a);
      f32v h = (1 - z) * n + z * load(u.h + at);
      store(u.h + at, h);
      store(u.y + at, h);
      if (u.gates) {
        E* saved = u.gates + row * u.width + unit;
        store(saved, a), store(saved + 16, r), store(saved + 32, z), store(saved + 48, n);
      }
    });
  }

  template <class E>
  static NOINLINE void backward(int64_t first, int64_t last, const BackwardStep<E>& u) {
    for (int64_t unit = first; unit < last; unit += kWidth) {
      E* gates = u.gates + gate_offset(unit);
      f32v a = load(gates), r = load(gates + 16), z = load(gates + 32), n = load(gates + 48);
      f32v dh = load(u.dh + unit) + load(u.dy + unit);
      f32v dn = dh * (1 - z) * (1 - n * n);
      store(gates, dn * r);
      store(gates + 16, dn * a * r * (1 - r));
      store(gates + 32, dh * (u.state_before(unit) - n) * z * (1 - z));
      store(gates + 48, dn);
      store(u.dh + unit, dh * z);
    }
  }
};

struct Rnn {
  static constexpr int kUnits = 64;
  static constexpr int kInput = 0, kInputSlots = 4;
  static constexpr int kRecurrent = 0, kRecurrentSlots = 4;
  static constexpr int kInputGates[] = {0};
  static constexpr int kRecurrentGates[] = {0};

  template <class E>
  static NOINLINE void forward(const float* pre, int rows, int slots, const Step<E>& u) {
    for_vectors(rows, slots * kLanes, [&](int r, int n) {
      f32v h = tanh_of(load(pre + r * kPanel + n));
      store(u.h + r * u.H + n, h);
      store(u.y + r * u.H + n, h);
      if (u.gates) store(u.gates + r * u.width + n, h);
    });
  }

  template <class E>
  static NOINLINE void backward(int64_t first, int64_t last, const BackwardStep<E>& u) {
    for (int64_t n = first; n < last; n += kWidth) {
      f32v h = load(u.gates + n);
      store(u.gates + n, (load(u.dh + n) + load(u.dy + n)) * (1 - h * h));
      store(u.dh + n, f32v{});
    }
  }
};

// Threads.

// Runs f(0), ..., f(parts - 1) on the threads of the pool and on this thread. This thread waits
// only for parts that have started, so a busy pool delays nothing and cannot cause a deadlock.
template <class F>
void parallel(ffi::ThreadPool& pool, int64_t threads, int64_t parts, const F& f) {
  struct Shared {
    std::atomic<int64_t> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable all_done;
  };
  threads = std::min(threads, parts);
  if (threads <= 1) {
    for (int64_t part = 0; part < parts; ++part) run_part(f, part);
    return;
  }
  auto shared = std::make_shared<Shared>();
  // A task that starts after all parts are claimed must not use f, which may be gone by then.
  auto work = [shared, parts, &f] {
    for (int64_t part; (part = shared->next.fetch_add(1)) < parts;) {
      run_part(f, part);
      if (shared->done.fetch_add(1) + 1 == parts) {
        std::lock_guard<std::mutex> lock(shared->mutex);
        shared->all_done.notify_one();
      }
    }
  };
  for (int64_t n = 1; n < threads; ++n) pool.Schedule([work] { work(); });
  work();
  // Most waits are shorter than the time that it takes to wake this thread, so spin first.
  for (int spin = 0; spin < 2000 && shared->done.load() < parts; ++spin) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->all_done.wait(lock, [&] { return shared->done.load() == parts; });
}

int64_t thread_count(ffi::ThreadPool& pool) { return std::max<int64_t>(1, pool.num_threads()); }

struct Range {
  int64_t first, last;
  int64_t size() const { return last - first; }
};

// Returns part n of `parts` parts of [0, count), whose sizes differ by at most one.
Range share(int64_t count, int64_t parts, int64_t n) {
  return {count * n / parts, count * (n + 1) / parts};
}

// Divides [0, count) into parts for f(Range) on all threads. `work` is the number of multiply-adds;
// small work is not divided, because waking a thread takes longer.
template <class F>
void divide(ffi::ThreadPool& pool, int64_t count, int64_t work, const F& f) {
  const int64_t threads = thread_count(pool);
  const int64_t most = threads == 1 ? 1 : threads * kParts;
  const int64_t parts = std::clamp<int64_t>(work / kMinimum, 1, std::min(count, most));
  parallel(pool, threads, parts, [&](int64_t n) { f(share(count, parts, n)); });
}

int64_t ceil_div(int64_t x, int64_t unit) { return (x + unit - 1) / unit; }

int64_t round_up(int64_t x, int64_t unit) { return ceil_div(x, unit) * unit; }

// The number of slots of panel p of a row. Only the last panel can have fewer than kSlots.
int64_t slots_of(int64_t columns, int64_t p) {
  return std::min<int64_t>(kSlots, ceil_div(columns - p * kPanel, kLanes));
}

// Calls f(std::integral_constant<int, n>) for n from 1 to Most.
template <int Most, class F>
INLINE void with_constant(int64_t n, const F& f) {
  if constexpr (Most > 1) {
    if (n < Most) return with_constant<Most - 1>(n, f);
  }
  f(std::integral_constant<int, Most>());
}

// Calls f(row, height) for tiles of products of E, whose heights differ by at most one. Tiles of one
// height follow each other, because configuring the tile registers takes time.
template <class E, class F>
void for_tiles(Range rows, const F& f) {
  const int64_t tiles = ceil_div(rows.size(), kHeight<E>);
  for (int64_t n = 0; n < tiles; ++n) {
    const int64_t height = rows.size() / tiles, higher = rows.size() % tiles;
    f(rows.first + n * height + std::min(n, higher), height + (n < higher));
  }
}

// Adds the products of `height` rows with `slots` slots of a panel to a tile.
template <class E, int Step>
void multiply(float* tile, int64_t height, int64_t slots, Left<Step> rows, const word* w,
              Sum sum) {
#ifdef TILES
  if constexpr (kTiles<E>) {
    // Only a sum of one chunk may have a number of words that is not a multiple of 8.
    const int64_t rest = sum.words % (kTileRows / 2);
    sum.words -= rest;
    if (sum.words) {
      with_constant<kSlots>(slots, [&](auto N) {
        multiply_tile_registers<N.value>(tile, height, rows, w, sum);
      });
    }
    if (!rest) return;
    rows.first += sum.words, w += sum.words * sum.pitch, sum.words = rest;
    for (; height > kRows; height -= kRows, tile += kRows * kPanel, rows.first += kRows * rows.row) {
      with_constant<kSlots>(slots, [&](auto N) {
        multiply_tile<E, kRows, N.value, Step>(tile, rows, w, sum);
      });
    }
  }
#endif
  with_constant<kRows>(height, [&](auto R) {
    with_constant<kSlots>(slots, [&](auto N) {
      multiply_tile<E, R.value, N.value, Step>(tile, rows, w, sum);
    });
  });
}

// Layers.

// The columns of a weight matrix in the order of the parameters, and the slots that they fill.
struct Columns {
  int64_t H;         // columns of a gate
  int64_t units;     // units of a panel
  const int* gates;  // the gate of each slot, if units == kLanes
  int slots;         // slots of a panel

  int64_t panels() const { return ceil_div(H, units); }
  int64_t unit(int64_t p, int64_t s) const { return p * units + (units > kLanes ? s * kLanes : 0); }
  int64_t column(int64_t p, int64_t s) const {
    return (units > kLanes ? 0 : gates[s] * H) + unit(p, s);
  }
  // The number of columns of a slot; the rest of its lanes are padding.
  int64_t count(int64_t p, int64_t s) const {
    return std::clamp<int64_t>(H - unit(p, s), 0, kLanes);
  }
};

template <class Cell>
Columns input_columns(int64_t H) {
  return {H, Cell::kUnits, Cell::kInputGates, Cell::kInputSlots};
}

template <class Cell>
Columns recurrent_columns(int64_t H) {
  return {H, Cell::kUnits, Cell::kRecurrentGates, Cell::kRecurrentSlots};
}

// A vector that starts at a cache line, so that no row of a tile register crosses one.
template <class T>
struct CacheLines {
  using value_type = T;
  CacheLines() = default;
  template <class U>
  CacheLines(const CacheLines<U>&) {}
  T* allocate(size_t n) {
    return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t(64)));
  }
  void deallocate(T* p, size_t) { ::operator delete(p, std::align_val_t(64)); }
  template <class U>
  bool operator==(const CacheLines<U>&) const { return true; }
  template <class U>
  bool operator!=(const CacheLines<U>&) const { return false; }
};
template <class T>
using Aligned = std::vector<T, CacheLines<T>>;

// The sizes of a layer, and how the threads divide it. H is a multiple of 16. Rows of the saved
// gates and of dz have `width` elements.
template <class Cell>
struct Sizes {
  int64_t T, B, H, panels, width;

  Sizes(int64_t T, int64_t B, int64_t H)
      : T(T), B(B), H(H), panels(ceil_div(H, Cell::kUnits)),
        width(Cell::kUnits == kLanes ? panels * kPanel : H) {}

  // Returns whether threads divide the rows of the batch; otherwise they divide the units of each
  // step.
  bool divides_rows(int64_t threads) const { return T > 1 && B >= kRows * threads; }
};

template <class Cell, class E>
struct Forward : Sizes<Cell> {
  using Sizes<Cell>::T;
  using Sizes<Cell>::B;
  using Sizes<Cell>::H;
  using Sizes<Cell>::panels;

  const int32_t* ids;      // [T, B], or null
  const E* x;              // [T, B, D], or null
  int64_t D;
  const E* table;          // for ids: the panels of W_xh, [panels, vocab, slots * 16]
  int64_t vocab;
  const word *W_x, *W_h;   // panels of W_xh (for x) and W_hh, [panels, words, slots * 16]
  int64_t x_words, h_words;
  const float* bias;       // [panels, 64]
  float *h, *c;            // the state, [B, H]; updated
  const E* first;          // the initial h, [B, H]
  E* y;                    // the outputs, [T, B, H]
  E *gates, *saved_c;      // [T, B, width] and [T, B, H], or null

  Forward(int64_t T, int64_t B, int64_t H) : Sizes<Cell>(T, B, H) {}

  void step(int64_t t, Range rows, Range part) const {
    for (int64_t p = part.first; p < part.last; ++p)
      for_tiles<E>(rows, [&](int64_t row, int64_t height) { tile(t, row, height, p); });
  }

  void tile(int64_t t, int64_t row, int64_t height, int64_t p) const {
    const int64_t slots = slots_of(this->width, p), unit = p * Cell::kUnits, n = t * B + row;
    const int64_t x_slots = std::min<int64_t>(slots, Cell::kInputSlots);
    const int64_t h_slots = std::min<int64_t>(slots, Cell::kRecurrentSlots);
    constexpr int64_t kXPitch = Cell::kInputSlots * kLanes, kHPitch = Cell::kRecurrentSlots * kLanes;
    alignas(64) float pre[kHeight<E> * kPanel];
    for (int64_t r = 0; r < height; ++r)
      std::memcpy(pre + r * kPanel, bias + p * kPanel, sizeof(float) * kPanel);
    if (ids) {
      for (int64_t r = 0; r < height; ++r) {
        // Callers pass ids in range. Clamping keeps a wrong id from reading outside the table.
        const int64_t id = std::clamp<int64_t>(ids[n + r], 0, vocab - 1);
        const E* entry = table + (p * vocab + id) * kXPitch;
        float* sum = pre + r * kPanel + Cell::kInput * kLanes;
        for (int64_t s = 0; s < x_slots * kLanes; s += kWidth)
          store(sum + s, load(sum + s) + load(entry + s));
      }
    } else {
      multiply<E>(pre + Cell::kInput * kLanes, height, x_slots,
                  Left<>{words(x + n * D), D / kPerWord<E>}, W_x + p * x_words * kXPitch,
                  {1, x_words, 0, kXPitch});
    }
    const E* before = t ? y + (t - 1) * B * H : first;
    multiply<E>(pre + Cell::kRecurrent * kLanes, height, h_slots,
                Left<>{words(before + row * H), H / kPerWord<E>}, W_h + p * h_words * kHPitch,
                {1, h_words, 0, kHPitch});
    const int64_t at = row * H + unit, out = n * H + unit;
    Cell::forward(pre, height, slots,
                  Step<E>{H, this->width, h + at, c ? c + at : nullptr, y + out,
                          gates ? gates + n * this->width + p * kPanel : nullptr,
                          saved_c ? saved_c + out : nullptr});
  }

  void run(ffi::ThreadPool& pool) const {
    const int64_t threads = thread_count(pool), inputs = (x_words + h_words) * kPerWord<E>;
    const int64_t work = B * inputs * panels * kPanel;
    if (this->divides_rows(threads)) {
      parallel(pool, threads, threads, [&](int64_t n) {
        for (int64_t t = 0; t < T; ++t) step(t, share(B, threads, n), {0, panels});
      });
    } else {
      for (int64_t t = 0; t < T; ++t)
        divide(pool, panels, work, [&](Range part) { step(t, {0, B}, part); });
    }
  }
};

// The panels of a transposed weight matrix. Its product with dz is the gradient of x or h.
struct Transposed {
  const word* W;    // [panels, chunks * words, 64]
  int64_t outputs;  // columns of the product, a multiple of 16
  int64_t offset, words, stride, chunks;  // the words of a row of dz that are summed, see Sum

  int64_t panels() const { return ceil_div(outputs, kPanel); }
  int64_t size() const { return panels() * chunks * words * kPanel; }

  // Adds the products of `rows` rows of dz to `sums`, [rows, outputs].
  template <class E>
  void add(const E* dz, int64_t width, float* sums, int64_t rows, Range part) const {
    // A block of a panel stays in the L2 cache while all rows use it.
    const int64_t block = std::max<int64_t>(1, kBackward / words);
    for (int64_t chunk = 0; chunk < chunks; chunk += block) {
      const Sum sum{std::min(block, chunks - chunk), words, stride, kPanel};
      for (int64_t p = part.first; p < part.last; ++p) {
        const word* w = W + (p * chunks + chunk) * words * kPanel;
        const int64_t slots = slots_of(outputs, p);
        const int64_t bytes = sizeof(float) * slots * kLanes;
        for_tiles<E>({0, rows}, [&](int64_t row, int64_t height) {
          alignas(64) float tile[kHeight<E> * kPanel];
          float* to = sums + row * outputs + p * kPanel;
          for (int64_t r = 0; r < height; ++r)
            std::memcpy(tile + r * kPanel, to + r * outputs, bytes);
          const word* a = ::words(dz + row * width) + offset + chunk * stride;
          multiply<E>(tile, height, slots, Left<>{a, width / kPerWord<E>}, w, sum);
          for (int64_t r = 0; r < height; ++r)
            std::memcpy(to + r * outputs, tile + r * kPanel, bytes);
        });
      }
    }
  }
};

// Returns the panels for rows of dz with `width` elements. The product uses `slots` slots of each
// panel of dz, starting with slot `first`.
template <class E>
Transposed transposed(const word* W, int64_t outputs, int64_t width, int64_t units, int first,
                      int slots) {
  if (units > kLanes) {  // all columns, one after the other; in runs of 16 words if possible
    const int64_t columns = width % (2 * kLanes) == 0 ? 2 * kLanes : kLanes;
    const int64_t stride = columns / kPerWord<E>;
    return {W, outputs, 0, stride, stride, width / columns};
  }
  return {W, outputs, first * kLanes / kPerWord<E>, slots * kLanes / kPerWord<E>,
          kPanel / kPerWord<E>, width / kPanel};
}

template <class Cell, class E>
struct Backward : Sizes<Cell> {
  using Sizes<Cell>::T;
  using Sizes<Cell>::B;
  using Sizes<Cell>::H;
  using Sizes<Cell>::width;

  E* gates;            // [T, B, width]; replaced by dz
  const E *y, *c;      // the outputs, and the cell states (LSTM), [T, B, H]
  const float* first;  // the initial h, or c of an LSTM, [B, H]
  const E* dy;         // [T, B, H]
  float *dh, *dc;      // gradients of the state, [B, H]; updated
  E* dx;               // [T, B, D], or null
  Transposed W_h, W_x;

  Backward(int64_t T, int64_t B, int64_t H) : Sizes<Cell>(T, B, H) {}

  void gate_step(int64_t t, Range rows, Range units) const {
    const E* states = c ? c : y;
    for (int64_t row = rows.first; row < rows.last; ++row) {
      const int64_t n = t * B + row, at = row * H;
      Cell::backward(units.first * kLanes, units.last * kLanes,
                     BackwardStep<E>{H, dy + n * H, dh + at, dc ? dc + at : nullptr,
                                     gates + n * width, c ? c + n * H : nullptr,
                                     t ? nullptr : first + at,
                                     t ? states + (n - B) * H : nullptr});
    }
  }

  void recurrent_step(int64_t t, Range rows, Range part) const {
    W_h.add(dz(t, rows), width, dh + rows.first * H, rows.size(), part);
  }

  // `sums` is scratch space for the gradient of x, [rows, D].
  void input_step(int64_t t, Range rows, Range part, float* sums) const {
    const int64_t D = W_x.outputs;
    const Range columns{part.first * kPanel, std::min(part.last * kPanel, D)};
    for (int64_t r = 0; r < rows.size(); ++r)
      std::fill(sums + r * D + columns.first, sums + r * D + columns.last, 0.0f);
    W_x.add(dz(t, rows), width, sums, rows.size(), part);
    for (int64_t r = 0; r < rows.size(); ++r) {
      E* row = dx + (t * B + rows.first + r) * D;
      for (int64_t d = columns.first; d < columns.last; d += kWidth)
        store(row + d, load(sums + r * D + d));
    }
  }

  void run(ffi::ThreadPool& pool) const {
    const int64_t threads = thread_count(pool), units = H / kLanes;
    const int64_t h_panels = W_h.panels(), x_panels = dx ? W_x.panels() : 0;
    std::vector<float> sums(dx ? B * W_x.outputs : 0);
    if (this->divides_rows(threads)) {
      parallel(pool, threads, threads, [&](int64_t n) {
        const Range rows = share(B, threads, n);
        for (int64_t t = T; t-- > 0;) {
          gate_step(t, rows, {0, units});
          recurrent_step(t, rows, {0, h_panels});
          if (dx) input_step(t, rows, {0, x_panels}, sums.data() + rows.first * W_x.outputs);
        }
      });
      return;
    }
    for (int64_t t = T; t-- > 0;) {
      divide(pool, units, B * H * kGates, [&](Range part) { gate_step(t, {0, B}, part); });
      // The panels of both products are numbered consecutively.
      const int64_t work = B * width * (H + (dx ? W_x.outputs : 0));
      divide(pool, h_panels + x_panels, work, [&](Range part) {
        const Range h{std::min(part.first, h_panels), std::min(part.last, h_panels)};
        const Range x{std::max(part.first, h_panels) - h_panels,
                      std::max(part.last, h_panels) - h_panels};
        if (h.size()) recurrent_step(t, {0, B}, h);
        if (x.size()) input_step(t, {0, B}, x, sums.data());
      });
    }
  }

 private:
  const E* dz(int64_t t, Range rows) const { return gates + (t * B + rows.first) * width; }
};

// Row n of a matrix in two parts: the first `count` rows are in one array, the rest in another.
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

// The gradients of a weight matrix: the sum over N rows of the outer products of x and dz.
template <class E>
struct Gradient {
  Rows<E> x;           // [N, inputs]
  const int32_t* ids;  // [N], or null; row n of dz is added to row ids[n] of dW
  int64_t inputs;      // rows of dW
  int slot;            // first slot of dz
  Columns columns;
  float* dW;           // [inputs, row]
  int64_t row;         // columns of dW

  // Rows of x and dz are added in blocks. The sums are in panels, [panels, inputs, 64].
  static constexpr int64_t kBlock = kGradient * kPerWord<E>;

  // A packed tile of x is [words, 6] or, for tile registers, [16, words]. kStep is the distance
  // between the words of a row.
  static constexpr int kStep = kTiles<E> ? 1 : kRows;

  static int64_t packed_words(int64_t rows) {
    return round_up(ceil_div(rows, kPerWord<E>), kTiles<E> ? kTileRows / 2 : 1);
  }

  // Packs a block of x, transposed, to tiles.
  void pack(Range in, int64_t n, int64_t rows, word* packed) const {
    const int64_t words = packed_words(rows);
    for (int64_t k = 0; k < words; ++k) {
      // Words are padded with zeros.
      const int64_t first = k * kPerWord<E>;
      const E* x0 = first < rows ? x(n + first) : nullptr;
      const E* x1 = kPerWord<E> == 2 && first + 1 < rows ? x(n + first + 1) : nullptr;
      auto word_of = [&](int64_t d) {
        uint32_t bits = 0;
        if (x0) std::memcpy(&bits, x0 + d, sizeof(E));
        if constexpr (std::is_same_v<E, bf16>) bits |= x1 ? uint32_t(x1[d].bits) << 16 : 0;
        return bits;
      };
      word* to = packed + k * kStep;
      for (int64_t d = in.first; d < in.last; d += kHeight<E>, to += words * kHeight<E>) {
        const int64_t height = std::min<int64_t>(kHeight<E>, in.last - d);
#ifdef TILES
        if constexpr (kTiles<E>) {
          if (height == kTileRows && x1) {
            const auto rows = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
            const u32v both = interleave(read<u16v>(x0 + d), read<u16v>(x1 + d));
            _mm512_i32scatter_epi32(to, _mm512_mullo_epi32(rows, _mm512_set1_epi32(words)),
                                    (__m512i)both, sizeof(word));
            continue;
          }
        }
#endif
        for (int64_t r = 0; r < height; ++r) to[r * (kTiles<E> ? words : 1)] = word_of(d + r);
      }
    }
  }

  // Adds the product of packed blocks of x and of panel p of dz to the sums of the panel.
  void add(Range in, int64_t p, const word* packed, const word* dz, int64_t rows,
           float* sums) const {
    const int64_t words = packed_words(rows);
    for (int64_t d = 0; d < in.size(); d += kHeight<E>) {
      const int64_t height = std::min<int64_t>(kHeight<E>, in.size() - d);
      const Left<kStep> tile{packed + d * words, kTiles<E> ? words : 1};
      multiply<E>(sums + d * kPanel, height, slots(p), tile, dz + slot * kLanes,
                  {1, words, 0, kPanel});
    }
  }

  void add_ids(Range in, int64_t n, int64_t rows, int64_t p, const E* dz, int64_t width,
               float* sums) const {
    for (int64_t k = n; k < n + rows; ++k) {
      const int64_t id = std::clamp<int64_t>(ids[k], 0, inputs - 1);
      if (id < in.first || id >= in.last) continue;
      float* to = sums + (id - in.first) * kPanel;
      const E* from = dz + k * width + p * kPanel + slot * kLanes;
      for (int64_t s = 0; s < slots(p) * kLanes; s += kWidth)
        store(to + s, load(to + s) + load(from + s));
    }
  }

  // Writes the sums of panel p to the columns of dW.
  void write_panel(Range in, int64_t p, const float* sums) const {
    for (int64_t d = in.first; d < in.last; ++d, sums += kPanel)
      for (int s = 0; s < slots(p); ++s)
        std::copy_n(sums + s * kLanes, columns.count(p, s), dW + d * row + columns.column(p, s));
  }

 private:
  // The slots of a panel that have columns.
  int64_t slots(int64_t p) const {
    int64_t slots = columns.slots;
    while (columns.count(p, slots - 1) == 0) --slots;
    return slots;
  }
};

// Packs rows [n, n + rows) of `slots` slots of a panel of dz to [words, 64], and adds their sum to
// `sums`.
template <class E>
void pack_dz(const E* dz, int64_t width, int64_t n, int64_t rows, int64_t slots, word* packed,
             float* sums) {
  for (int64_t s = 0; s < slots * kLanes; s += kWidth) {
    const E* row = dz + n * width + s;
    word* to = packed + s;
    f32v sum{};
    for (int64_t k = 0; k < rows; k += kPerWord<E>, row += kPerWord<E> * width, to += kPanel) {
      sum += load(row);
      if constexpr (std::is_same_v<E, float>) {
        write(to, load(row));
      } else {
        const bool has_second = k + 1 < rows;
        if (has_second) sum += load(row + width);
        write(to, interleave(read<u16v>(row), has_second ? read<u16v>(row + width) : u16v{}));
      }
    }
    store(sums + s, load(sums + s) + sum);
  }
  const int64_t words = ceil_div(rows, kPerWord<E>);
  std::fill(packed + words * kPanel, packed + Gradient<E>::packed_words(rows) * kPanel, 0);
}

// Computes the gradients of matrices that share dz [N, width]: the columns of the panels in `part`,
// and part `input` of `inputs` parts of the rows. Part 0 of the rows also writes the sum of these
// columns of dz to `sums` [width].
template <class E>
void add_gradients(const std::vector<Gradient<E>>& gradients, const E* dz, int64_t N, int64_t width,
                   Range part, int64_t input, int64_t inputs, float* sums) {
  std::vector<Aligned<float>> sums_of;
  int64_t most = 0;
  auto range = [&](const Gradient<E>& g) { return share(g.inputs, inputs, input); };
  for (const auto& g : gradients) {
    sums_of.emplace_back(part.size() * range(g).size() * kPanel);
    if (!g.ids) most = std::max(most, range(g).size());
  }
  Aligned<uint32_t> packed_x(round_up(most, kHeight<E>) * kGradient);
  Aligned<uint32_t> packed_dz(part.size() * kGradient * kPanel);
  std::vector<float> total(part.size() * kPanel);
  for (int64_t n = 0; n < N; n += Gradient<E>::kBlock) {
    const int64_t rows = std::min(Gradient<E>::kBlock, N - n);
    auto packed = [&](int64_t p) { return packed_dz.data() + p * kGradient * kPanel; };
    for (int64_t p = 0; p < part.size(); ++p) {
      const int64_t first = (part.first + p) * kPanel;
      pack_dz(dz + first, width, n, rows, slots_of(width, part.first + p), packed(p),
              total.data() + p * kPanel);
    }
    for (size_t m = 0; m < gradients.size(); ++m) {
      const auto& g = gradients[m];
      const Range in = range(g);
      if (!g.ids) g.pack(in, n, rows, packed_x.data());
      for (int64_t p = 0; p < part.size(); ++p) {
        float* to = sums_of[m].data() + p * in.size() * kPanel;
        if (g.ids) {
          g.add_ids(in, n, rows, part.first + p, dz, width, to);
        } else {
          g.add(in, part.first + p, packed_x.data(), packed(p), rows, to);
        }
      }
    }
  }
  for (size_t m = 0; m < gradients.size(); ++m) {
    const Range in = range(gradients[m]);
    for (int64_t p = 0; p < part.size(); ++p)
      gradients[m].write_panel(in, part.first + p, sums_of[m].data() + p * in.size() * kPanel);
  }
  if (input == 0) {
    const int64_t end = std::min(part.last * kPanel, width);
    std::copy_n(total.data(), end - part.first * kPanel, sums + part.first * kPanel);
  }
}

// Divides the work of `add_gradients` among the threads: first by panels, then by rows.
template <class E>
void run_gradients(ffi::ThreadPool& pool, const std::vector<Gradient<E>>& gradients, const E* dz,
                   int64_t N, int64_t width, float* sums) {
  const int64_t threads = thread_count(pool), panels = ceil_div(width, kPanel);
  // If possible, a part has two or more panels; the sizes of smaller parts would differ too much.
  // Threads that are left divide the rows, although each part of the rows packs dz again.
  const int64_t parts = std::clamp<int64_t>(panels / 2, 1, threads);
  int64_t work = 0;
  for (const auto& g : gradients) work += N * width * (g.ids ? kGates : g.inputs);
  const int64_t inputs = work < kMinimum ? 1 : threads / parts;
  parallel(pool, threads, parts * inputs, [&](int64_t n) {
    add_gradients(gradients, dz, N, width, share(panels, parts, n % parts), n / parts, inputs,
                  sums);
  });
}

// The output layer.

template <class E>
struct Linear {
  int64_t N, D, V;  // V: columns of the output
  const E* x;       // [N, D]

  void forward(ffi::ThreadPool& pool, const word* W, int64_t x_words, const float* bias,
               float* y) const {
    divide(pool, ceil_div(N, kRows), N * D * V, [&](Range tiles) {
      const Range rows{tiles.first * kRows, std::min(tiles.last * kRows, N)};
      for (int64_t p = 0; p < ceil_div(V, kPanel); ++p) {
        for_tiles<E>(rows, [&](int64_t row, int64_t height) {
          alignas(64) float tile[kHeight<E> * kPanel];
          const int64_t columns = std::min<int64_t>(kPanel, V - p * kPanel);
          const int64_t slots = slots_of(V, p);
          for (int64_t r = 0; r < height; ++r) {
            std::copy_n(bias + p * kPanel, columns, tile + r * kPanel);
            std::fill_n(tile + r * kPanel + columns, slots * kLanes - columns, 0.0f);
          }
          multiply<E>(tile, height, slots, Left<>{words(x + row * D), D / kPerWord<E>},
                      W + p * x_words * kPanel, {1, x_words, 0, kPanel});
          for (int64_t r = 0; r < height; ++r)
            std::memcpy(y + (row + r) * V + p * kPanel, tile + r * kPanel, columns * sizeof(float));
        });
      }
    });
  }

  // `inputs` are the rows of dW; x and dx have padding.
  void backward(ffi::ThreadPool& pool, const word* W, const float* dy, E* dx, int64_t inputs,
                float* dW, float* db) const {
    const int64_t width = round_up(V, kLanes);
    std::vector<E> dz(N * width);
    const Transposed W_T = transposed<E>(W, D, width, kPanel, 0, kSlots);
    divide(pool, ceil_div(N, kRows), N * D * V, [&](Range tiles) {
      const Range rows{tiles.first * kRows, std::min(tiles.last * kRows, N)};
      std::vector<float> sums(rows.size() * D);
      for (int64_t n = rows.first; n < rows.last; ++n) {
        for (int64_t v = 0; v < V; v += kLanes) {
          float slot[kLanes];
          copy_slot(slot, dy + n * V + v, V - v);
          for (int lane = 0; lane < kLanes; lane += kWidth)
            store(dz.data() + n * width + v + lane, load(slot + lane));
        }
      }
      W_T.add(dz.data() + rows.first * width, width, sums.data(), rows.size(), {0, W_T.panels()});
      for (int64_t n = 0; n < rows.size() * D; n += kWidth)
        store(dx + rows.first * D + n, load(sums.data() + n));
    });
    std::vector<float> totals(width);
    const Gradient<E> gradient{{x, N, x, D}, nullptr, inputs, 0, {V, kPanel, nullptr, kSlots}, dW, V};
    run_gradients<E>(pool, {gradient}, dz.data(), N, width, totals.data());
    std::copy_n(totals.data(), V, db);
  }
};

// Packing.

// Packs a matrix W [K, columns] to panels [panels, words, slots * 16, Values], or its transpose.
template <class E, int Values>
struct Pack {
  const float* W;
  int64_t K, row;  // row: columns of W
  Columns columns;

  void run(ffi::ThreadPool& pool, E* to) const {
    const int64_t words = ceil_div(K, Values), size = words * columns.slots * kLanes * Values;
    divide(pool, columns.panels(), K * row * kCopy, [&](Range part) {
      for (int64_t p = part.first; p < part.last; ++p) {
        for (int64_t k = 0; k < words; ++k) {
          for (int64_t s = 0; s < columns.slots; ++s) {
            E* at = to + p * size + (k * columns.slots + s) * kLanes * Values;
            float rows[Values][kLanes];
            for (int value = 0; value < Values; ++value)
              copy_weights(rows[value], k * Values + value, p, s);
            for (int n = 0; n < kLanes; n += kWidth) {
              if constexpr (Values == 1) {
                store(at + n, load(rows[0] + n));
              } else {
                write(at + n * 2, interleave(round(load(rows[0] + n)), round(load(rows[1] + n))));
              }
            }
          }
        }
      }
    });
  }

  // Packs the transpose, whose columns are the rows of W, to panels of 64 columns.
  void run_transposed(ffi::ThreadPool& pool, E* to) const {
    const int64_t groups = columns.units > kLanes ? ceil_div(columns.H, kLanes) : columns.panels();
    const int64_t slots = columns.units > kLanes ? 1 : columns.slots;
    const int64_t words = groups * slots * kLanes / Values;
    divide(pool, ceil_div(K, kPanel), K * row * kCopy, [&](Range part) {
      for (int64_t p = part.first; p < part.last; ++p) {
        for (int64_t g = 0; g < groups * slots; ++g) {
          E* at = to + (p * words + g * kLanes / Values) * kPanel * Values;
          for (int64_t n = 0; n < kPanel; ++n) {
            // In panels of 64 units, a group is a slot.
            const int64_t in_panel = columns.units > kLanes ? kSlots : slots;
            float weights[kLanes];
            copy_weights(weights, p * kPanel + n, g / in_panel, g % in_panel);
            E rounded[kLanes];
            for (int lane = 0; lane < kLanes; lane += kWidth)
              store(rounded + lane, load(weights + lane));
            for (int64_t lane = 0; lane < kLanes; ++lane)
              at[(lane / Values * kPanel + n) * Values + lane % Values] = rounded[lane];
          }
        }
      }
    });
  }

 private:
  // Copies the weights of a slot in row k, and pads them with zeros.
  void copy_weights(float* to, int64_t k, int64_t p, int64_t s) const {
    copy_slot(to, W + k * row + columns.column(p, s), k < K ? columns.count(p, s) : 0);
  }
};

// Handlers. They check their operands, and run the code for the cell and the type of products.

template <class T>
T* data(ffi::AnyBuffer buffer) {
  return buffer.element_count() ? static_cast<T*>(buffer.untyped_data()) : nullptr;
}

template <class T>
T* data(ffi::Result<ffi::AnyBuffer> buffer) {
  return data<T>(*buffer);
}

int64_t size(ffi::AnyBuffer buffer, size_t axis) { return buffer.dimensions()[axis]; }

// Calls f(Cell(), E()). models/native.py has the numbers of the cells.
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

size_t rank(ffi::AnyBuffer buffer) { return buffer.dimensions().size(); }

bool is_empty(ffi::AnyBuffer buffer) { return buffer.element_count() == 0; }

bool matches(ffi::AnyBuffer buffer, ffi::DataType dtype, std::initializer_list<int64_t> shape) {
  const auto dimensions = buffer.dimensions();
  return buffer.element_type() == dtype &&
         std::equal(dimensions.begin(), dimensions.end(), shape.begin(), shape.end());
}

// Likewise, for an operand that only some cells have.
bool matches_if(bool is_needed, ffi::AnyBuffer buffer, ffi::DataType dtype,
                std::initializer_list<int64_t> shape) {
  return is_needed ? matches(buffer, dtype, shape) : is_empty(buffer);
}

// Returns whether x contains ids [T, B], or values [T, B, D] in the type of products.
bool is_input(ffi::AnyBuffer x, ffi::DataType dtype) {
  return x.element_type() == ffi::S32 ? rank(x) == 2 : x.element_type() == dtype && rank(x) == 3;
}

// The number of blocks of H columns in W_xh and W_hh.
template <class Cell>
constexpr int64_t kBlocks = Cell::kUnits == kLanes ? Cell::kInputSlots : 1;

ffi::Error forward(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer W_x, ffi::AnyBuffer W_h,
                   ffi::AnyBuffer bias, ffi::AnyBuffer first, ffi::AnyBuffer h, ffi::AnyBuffer c,
                   ffi::Result<ffi::AnyBuffer> y, ffi::Result<ffi::AnyBuffer> last_h,
                   ffi::Result<ffi::AnyBuffer> last_c, ffi::Result<ffi::AnyBuffer> gates,
                   ffi::Result<ffi::AnyBuffer> saved_c, int64_t cell) {
  const auto dtype = W_h.element_type();
  if (auto error = check(is_input(x, dtype) && rank(W_x) == 4 && rank(W_h) == 4 && rank(*y) == 3);
      error.failure())
    return error;
  return dispatch(cell, dtype, [&](auto Cell, auto Element) {
    using C = decltype(Cell);
    using E = decltype(Element);
    Forward<C, E> layer(size(*y, 0), size(*y, 1), size(*y, 2));
    const bool has_ids = x.element_type() == ffi::S32;
    layer.ids = has_ids ? data<int32_t>(x) : nullptr;
    layer.x = has_ids ? nullptr : data<E>(x);
    layer.D = has_ids ? 0 : size(x, 2);
    layer.table = data<E>(W_x);
    layer.vocab = size(W_x, 1);
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
    constexpr int64_t per_word = kPerWord<E>;
    constexpr bool has_c = std::is_same_v<C, Lstm>;
    const int64_t T = layer.T, B = layer.B, H = layer.H, panels = layer.panels;
    const bool is_valid =
        H % kLanes == 0 && layer.D % per_word == 0 && layer.x_words * per_word <= layer.D &&
        layer.h_words * per_word <= H && (!has_ids || layer.vocab > 0) &&
        (has_ids ? matches(x, ffi::S32, {T, B}) : matches(x, dtype, {T, B, layer.D})) &&
        matches(W_x, dtype, {panels, size(W_x, 1), C::kInputSlots * kLanes,
                             has_ids ? 1 : per_word}) &&
        matches(W_h, dtype, {panels, layer.h_words, C::kRecurrentSlots * kLanes, per_word}) &&
        matches(bias, ffi::F32, {panels, 1, kPanel, 1}) && matches(first, dtype, {B, H}) &&
        matches(h, ffi::F32, {B, H}) && matches_if(has_c, c, ffi::F32, {B, H}) &&
        matches(*y, dtype, {T, B, H}) && matches(*last_h, ffi::F32, {B, H}) &&
        matches_if(has_c, *last_c, ffi::F32, {B, H}) &&
        (!layer.gates || matches(*gates, dtype, {T, B, layer.width})) &&
        matches_if(has_c && layer.gates, *saved_c, dtype, {T, B, H});
    if (auto error = check(is_valid); error.failure()) return error;
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
  const auto dtype = W_h.element_type();
  if (auto error = check(rank(dy) == 3 && (is_empty(*dx) || rank(*dx) == 3)); error.failure())
    return error;
  return dispatch(cell, dtype, [&](auto Cell, auto Element) {
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
    layer.W_h = transposed<E>(data<word>(W_h), layer.H, layer.width, C::kUnits, C::kRecurrent,
                              C::kRecurrentSlots);
    const int64_t D = layer.dx ? size(*dx, 2) : 0;
    layer.W_x =
        transposed<E>(data<word>(W_x), D, layer.width, C::kUnits, C::kInput, C::kInputSlots);
    constexpr bool has_c = std::is_same_v<C, Lstm>;
    const int64_t T = layer.T, B = layer.B, H = layer.H;
    const bool is_valid =
        H % kLanes == 0 && D % kLanes == 0 && matches(gates, dtype, {T, B, layer.width}) &&
        matches(*dz, dtype, {T, B, layer.width}) && matches(y, dtype, {T, B, H}) &&
        matches_if(has_c, c, dtype, {T, B, H}) && matches(first, ffi::F32, {B, H}) &&
        matches(dy, dtype, {T, B, H}) && matches(last_dh, ffi::F32, {B, H}) &&
        matches(*dh, ffi::F32, {B, H}) && matches_if(has_c, last_dc, ffi::F32, {B, H}) &&
        matches_if(has_c, *dc, ffi::F32, {B, H}) &&
        int64_t(W_h.size_bytes()) == 4 * layer.W_h.size() &&
        (!layer.dx || (matches(*dx, dtype, {T, B, D}) && W_x.element_type() == dtype &&
                       int64_t(W_x.size_bytes()) == 4 * layer.W_x.size()));
    if (auto error = check(is_valid); error.failure()) return error;
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
  const auto dtype = dz.element_type();
  if (auto error = check(is_input(x, dtype) && rank(y) == 3 && rank(*dW_x) == 2 &&
                         rank(*dW_h) == 2);
      error.failure())
    return error;
  return dispatch(cell, dtype, [&](auto Cell, auto Element) {
    using C = decltype(Cell);
    using E = decltype(Element);
    const Sizes<C> sizes(size(y, 0), size(y, 1), size(y, 2));
    const int64_t N = sizes.T * sizes.B, H = size(*dW_h, 0);
    const bool has_ids = x.element_type() == ffi::S32;
    const E* rows = has_ids ? nullptr : data<E>(x);
    const int64_t D = has_ids ? 0 : size(x, 2);
    const std::vector<Gradient<E>> gradients = {
        {{data<E>(first), sizes.B, data<E>(y), sizes.H}, nullptr, H, C::kRecurrent,
         recurrent_columns<C>(H), data<float>(dW_h), size(*dW_h, 1)},
        {{rows, N, rows, D}, has_ids ? data<int32_t>(x) : nullptr, size(*dW_x, 0), C::kInput,
         input_columns<C>(H), data<float>(dW_x), size(*dW_x, 1)}};
    const int64_t T = sizes.T, B = sizes.B, inputs = size(*dW_x, 0);
    const bool is_valid =
        H > 0 && round_up(H, kLanes) == sizes.H && inputs > 0 &&
        (has_ids ? matches(x, ffi::S32, {T, B}) : inputs <= D && matches(x, dtype, {T, B, D})) &&
        matches(first, dtype, {B, sizes.H}) && matches(y, dtype, {T, B, sizes.H}) &&
        matches(dz, dtype, {T, B, sizes.width}) &&
        matches(*dW_x, ffi::F32, {inputs, kBlocks<C> * H}) &&
        matches(*dW_h, ffi::F32, {H, kBlocks<C> * H}) && matches(*db, ffi::F32, {sizes.width});
    if (auto error = check(is_valid); error.failure()) return error;
    run_gradients(pool, gradients, data<E>(dz), N, sizes.width, data<float>(db));
    return ffi::Error::Success();
  });
}

template <class F>
ffi::Error dispatch(ffi::DataType dtype, const F& f) {
  return dispatch(0, dtype, [&](auto, auto Element) { return f(Element); });
}

ffi::Error linear(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer W, ffi::AnyBuffer bias,
                  ffi::Result<ffi::AnyBuffer> y) {
  const auto dtype = W.element_type();
  if (auto error = check(rank(W) == 4 && rank(x) > 0 && x.dimensions().back() > 0 &&
                         x.element_type() == dtype);
      error.failure())
    return error;
  return dispatch(dtype, [&](auto Element) {
    using E = decltype(Element);
    const int64_t D = x.dimensions().back(), V = bias.element_count();
    const int64_t N = x.element_count() / D, x_words = size(W, 1);
    if (auto error = check(D % kLanes == 0 && x_words * kPerWord<E> <= D &&
                           matches(W, dtype, {ceil_div(V, kPanel), x_words, kPanel, kPerWord<E>}) &&
                           matches(bias, ffi::F32, {V}) && y->element_type() == ffi::F32 &&
                           int64_t(y->element_count()) == N * V);
        error.failure())
      return error;
    Linear<E>{N, D, V, data<E>(x)}.forward(pool, data<word>(W), x_words, data<float>(bias),
                                           data<float>(y));
    return ffi::Error::Success();
  });
}

ffi::Error linear_gradient(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer W,
                           ffi::AnyBuffer dy, ffi::Result<ffi::AnyBuffer> dx,
                           ffi::Result<ffi::AnyBuffer> dW, ffi::Result<ffi::AnyBuffer> db) {
  const auto dtype = W.element_type();
  if (auto error = check(rank(x) > 0 && x.dimensions().back() > 0 && rank(dy) > 0 &&
                         rank(*dW) == 2 && x.element_type() == dtype);
      error.failure())
    return error;
  return dispatch(dtype, [&](auto Element) {
    using E = decltype(Element);
    const int64_t D = x.dimensions().back(), V = dy.dimensions().back();
    const int64_t N = x.element_count() / D, words = round_up(V, kLanes) / kPerWord<E>;
    const int64_t inputs = size(*dW, 0);
    const bool is_valid =
        D % kLanes == 0 && V > 0 && round_up(inputs, kLanes) == D &&
        matches(W, dtype, {ceil_div(D, kPanel), words, kPanel, kPerWord<E>}) &&
        dy.element_type() == ffi::F32 && int64_t(dy.element_count()) == N * V &&
        dx->element_type() == dtype && int64_t(dx->element_count()) == N * D &&
        matches(*dW, ffi::F32, {inputs, V}) && matches(*db, ffi::F32, {V});
    if (auto error = check(is_valid); error.failure()) return error;
    Linear<E>{N, D, V, data<E>(x)}.backward(pool, data<word>(W), data<float>(dy), data<E>(dx), inputs,
                                            data<float>(dW), data<float>(db));
    return ffi::Error::Success();
  });
}

// `matrix` is 0 for W_xh, 1 for W_hh, 2 for the bias of every slot, [1, slots * H].
ffi::Error pack(ffi::ThreadPool pool, ffi::AnyBuffer W, ffi::Result<ffi::AnyBuffer> panels,
                int64_t cell, int64_t matrix, bool is_transposed) {
  if (auto error = check(rank(W) == 2 && W.element_type() == ffi::F32 && rank(*panels) > 0);
      error.failure())
    return error;
  return dispatch(cell, panels->element_type(), [&](auto Cell, auto Element) {
    using C = decltype(Cell);
    using E = decltype(Element);
    static constexpr int kAll[] = {0, 1, 2, 3};
    const int64_t K = size(W, 0), row = size(W, 1), values = panels->dimensions().back();
    Columns columns = matrix == 0 ? input_columns<C>(0) : recurrent_columns<C>(0);
    if (matrix == 2) columns.gates = kAll, columns.slots = kSlots;
    const int64_t gates = columns.units > kLanes ? 1 : columns.slots;
    if (auto error = check(row % gates == 0); error.failure()) return error;
    columns.H = row / gates;
    auto run = [&](auto Values) {
      const Pack<E, Values.value> pack{data<float>(W), K, row, columns};
      const int64_t groups = columns.units > kLanes ? ceil_div(row, kLanes)
                                                    : columns.panels() * columns.slots;
      const int64_t size = is_transposed ? ceil_div(K, kPanel) * kPanel * groups * kLanes
                                         : columns.panels() * round_up(K, Values.value) *
                                               columns.slots * kLanes;
      if (auto error = check(size == int64_t(panels->element_count())); error.failure())
        return error;
      if (is_transposed) {
        pack.run_transposed(pool, data<E>(panels));
      } else {
        pack.run(pool, data<E>(panels));
      }
      return ffi::Error::Success();
    };
    if constexpr (std::is_same_v<E, bf16>) {
      if (values == 2) return run(std::integral_constant<int, 2>());
    }
    return run(std::integral_constant<int, 1>());
  });
}

// Multiplies and adds only in registers: 24 x 16 multiply-adds per iteration, and twice as many in
// bfloat16 with AVX512-BF16 or AMX.
ffi::Error registers(ffi::ThreadPool pool, ffi::Result<ffi::AnyBuffer> result, int64_t iterations,
                     bool is_bf16) {
  if (auto error = check(rank(*result) == 1 && result->element_type() == ffi::F32); error.failure())
    return error;
  constexpr int kSums = 12, kRepeats = 24 * 64 / (kSums * sizeof(f32v));
  parallel(pool, size(*result, 0), size(*result, 0), [&](int64_t n) {
    f32v sums[kSums]{}, a = sums[0] + 0.5f, w = sums[0] + 0.25f;
#ifdef TILES
    if (is_bf16) {
      configure_tiles(kTileRows);
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
      _tile_zero(4);
      _tile_zero(5);
      // The four instructions do 4 x 16 x 16 x 32 multiply-adds.
      for (int64_t i = 0; i < iterations * 2 * 24 * 16; i += 4 * 16 * 16 * 32) {
        _tile_dpbf16ps(0, 4, 5);
        _tile_dpbf16ps(1, 4, 5);
        _tile_dpbf16ps(2, 4, 5);
        _tile_dpbf16ps(3, 4, 5);
      }
    } else {
#endif
    for (int s = 0; s < kSums; ++s) sums[s] += float(s);  // the compiler would merge equal sums
    for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 12
      for (int r = 0; r < kRepeats; ++r) {
#pragma GCC unroll 12
        for (auto& sum : sums) {
#ifdef __AVX512BF16__
          if (is_bf16) {
            sum = (f32v)_mm512_dpbf16_ps((__m512)sum, (__m512bh)(__m512i)a, (__m512bh)(__m512i)w);
            continue;
          }
#endif
          sum = sum * a + w;
        }
      }
    }
#ifdef TILES
    }
#endif
    float total = 0;
    for (const auto& sum : sums) total += sum[0];
    data<float>(result)[n] = total;
  });
  return ffi::Error::Success();
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT const char* charrnn_instructions() {
#if defined(TILES)
  return "AMX-BF16";
#elif defined(__AVX512BF16__)
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
                             .Arg<ffi::AnyBuffer>()   // W_x, packed
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

EXPORT XLA_FFI_Error* charrnn_pack(XLA_FFI_CallFrame* frame) {
  static auto* handler = ffi::Ffi::Bind()
                             .Ctx<ffi::ThreadPool>()
                             .Arg<ffi::AnyBuffer>()  // W
                             .Ret<ffi::AnyBuffer>()  // panels
                             .Attr<int64_t>("cell")
                             .Attr<int64_t>("matrix")
                             .Attr<bool>("transposed")
                             .To(pack)
                             .release();
  return handler->Call(frame);
}

EXPORT XLA_FFI_Error* charrnn_linear(XLA_FFI_CallFrame* frame) {
  static auto* handler = ffi::Ffi::Bind()
                             .Ctx<ffi::ThreadPool>()
                             .Arg<ffi::AnyBuffer>()  // x
                             .Arg<ffi::AnyBuffer>()  // W, packed
                             .Arg<ffi::AnyBuffer>()  // bias
                             .Ret<ffi::AnyBuffer>()  // y
                             .To(linear)
                             .release();
  return handler->Call(frame);
}

EXPORT XLA_FFI_Error* charrnn_linear_gradient(XLA_FFI_CallFrame* frame) {
  static auto* handler = ffi::Ffi::Bind()
                             .Ctx<ffi::ThreadPool>()
                             .Arg<ffi::AnyBuffer>()  // x
                             .Arg<ffi::AnyBuffer>()  // W, transposed and packed
                             .Arg<ffi::AnyBuffer>()  // dy
                             .Ret<ffi::AnyBuffer>()  // dx
                             .Ret<ffi::AnyBuffer>()  // dW
                             .Ret<ffi::AnyBuffer>()  // gradient of the bias
                             .To(linear_gradient)
                             .release();
  return handler->Call(frame);
}

EXPORT XLA_FFI_Error* charrnn_registers(XLA_FFI_CallFrame* frame) {
  static auto* handler = ffi::Ffi::Bind()
                             .Ctx<ffi::ThreadPool>()
                             .Ret<ffi::AnyBuffer>()  // one meaningless number per thread
                             .Attr<int64_t>("iterations")
                             .Attr<bool>("bfloat16")
                             .To(registers)
                             .release();
  return handler->Call(frame);
}
