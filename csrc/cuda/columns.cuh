// How a team of threads shares out a row's columns: in slots of 16 aligned bytes, which one load or store moves. Rows
// start wherever N puts them, so a stretch of columns has edges that fill no slot; those go one to a thread.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace wassrank::cuda {

// Columns are counted in 32 bits, with room for what a last round of slots reaches beyond the end. No packed
// list may have half as many, of which a warp's threads then see no more than float counts exactly: it is for the
// caller to know, since only the device could tell.
constexpr int64_t kMaxColumns = int64_t{1} << 30;

// Columns [begin, end).
struct Columns {
  int begin, end;
};

// Neighbouring columns of a row that starts `shift` columns after a 16-byte boundary.
template <int width>
struct Stretch {
  int begin, end;
  int head, tail;  // columns [begin, head) and [tail, end) are in no whole slot
  int slots;       // whole ones

  __device__ Stretch(Columns columns, int shift) : begin(columns.begin), end(columns.end) {
    const int first = (begin + shift + width - 1) / width, last = (end + shift) / width;
    slots = last > first ? last - first : 0;
    head = slots > 0 ? first * width - shift : end;
    tail = slots > 0 ? last * width - shift : end;
  }
  __device__ int slot_column(int i) const { return head + i * width; }
  __device__ int edges() const { return head - begin + end - tail; }  // at most 2 * (width - 1)
  __device__ int edge_column(int i) const { return i < head - begin ? begin + i : tail - (head - begin) + i; }
};

// A row but for a hole in it, numbered through: what is left and right of the hole keeps the same threads busy.
template <int width>
struct StretchesAround {
  static_assert(4 * (width - 1) <= 32, "a warp must do to take one edge column each");
  Stretch<width> left, right;
  int slots;

  __device__ StretchesAround(Columns row, Columns hole, int shift)
      : left({row.begin, hole.begin}, shift), right({hole.end, row.end}, shift), slots(left.slots + right.slots) {}
  __device__ int slot_column(int i) const {
    return i < left.slots ? left.slot_column(i) : right.slot_column(i - left.slots);
  }
  __device__ int edges() const { return left.edges() + right.edges(); }
  __device__ int edge_column(int i) const {
    return i < left.edges() ? left.edge_column(i) : right.edge_column(i - left.edges());
  }
};

// Whose work it is: thread `thread` of `threads`, in the `chunk`th of `chunks` such teams.
struct Team {
  int thread, threads;
  int chunk = 0, chunks = 1;
};

// What a thread has in hand: up to `count` pieces of `width` columns; piece u starts at column(u), if it has(u).
template <int pieces, int columns, class Stretches>
struct SlotsInHand {
  static constexpr int count = pieces, width = columns;
  const Stretches& stretches;
  int first, step;

  __device__ bool has(int u) const { return first + u * step < stretches.slots; }
  __device__ int column(int u) const { return stretches.slot_column(first + u * step); }
};

struct EdgeInHand {
  static constexpr int count = 1, width = 1;
  int at;
  bool exists;

  __device__ bool has(int) const { return exists; }
  __device__ int column(int) const { return at; }
};

// Calls take(hand, load(hand)) for all the stretches' columns; a warp's lanes stay together. The edge is loaded first
// and used last: otherwise a short row would wait for memory twice.
template <int count, int width, class Stretches, class Load, class Take>
__device__ void walk(const Stretches& stretches, const Team& team, Load load, Take take) {
  const int edges = team.chunk == 0 ? stretches.edges() : 0;
  const EdgeInHand edge{stretches.edge_column(team.thread), team.thread < edges};
  const auto at_edge = load(edge);
  const int round = count * team.threads;
  for (int start = team.chunk * round; start < stretches.slots; start += team.chunks * round) {
    const SlotsInHand<count, width, Stretches> hand{stretches, start + team.thread, team.threads};
    take(hand, load(hand));
  }
  if (edges > 0) take(edge, at_edge);
}

}  // namespace wassrank::cuda
