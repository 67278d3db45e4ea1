// A stack of bits in integers alone: what is pushed is popped again, to the bit, on every machine.
//
// A state in [2^32, 2^64) over a stack of 32-bit words. A number below `base` is pushed as
// state * base + number, which overflows into the words; popping divides (range coding with a uniform
// distribution, as in iFlow, Zhang et al., 2021). Nothing is lost but the fraction of a bit in the state.
// Symbols of unequal mass are coded by rANS (Duda, 2013) with kMassBits bits of mass, at a loss near 2^-12.
#pragma once

#include <stdint.h>

namespace vflow {

constexpr int kWordBits = 32;
constexpr uint64_t kLeastState = uint64_t{1} << 32;
constexpr int kMassBits = 20;  // the masses of all symbols sum to 2^20

// Word number `index` below the bottom of lane `lane`: what a stack that has nothing left is lent.
inline uint32_t lent_word(uint64_t lane, uint64_t index) {  // splitmix64
  uint64_t z = (lane << 40) + (index + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return static_cast<uint32_t>((z ^ (z >> 31)) >> 32);
}

struct BitStack {
  uint64_t state;
  uint32_t* words;
  int64_t count, capacity;
  uint64_t lane;
  int64_t lent;    // words taken from below the bottom
  bool may_lend;   // whether that is allowed
  bool underflow;  // whether it happened where it is not
  bool overflow;   // whether there was no room for a word
  bool beyond;     // whether a number came off it that cannot have been put there

  inline void put(uint32_t word) {
    if (__builtin_expect(count < capacity, 1))
      words[count++] = word;
    else
      overflow = true;
  }
  inline uint32_t take() {
    if (__builtin_expect(count > 0, 1)) return words[--count];
    if (may_lend) return lent_word(lane, static_cast<uint64_t>(lent++));
    underflow = true;
    return 0;
  }

  // value < base <= 2^32
  inline void push(uint64_t base, uint64_t value) {
    const unsigned __int128 next = static_cast<unsigned __int128>(state) * base + value;
    if (next >> 64) {
      put(static_cast<uint32_t>(next));
      state = static_cast<uint64_t>(next >> kWordBits);
    } else {
      state = static_cast<uint64_t>(next);
    }
  }
  inline uint64_t pop(uint64_t base) {
    const uint64_t quotient = state / base, rest = state - quotient * base;
    if (quotient >> kWordBits) {
      state = quotient;
      return rest;
    }
    const uint64_t low = rest << kWordBits | take(), next = low / base;
    state = quotient << kWordBits | next;
    return low - next * base;
  }

  // bits <= 32
  inline void push_bits(int bits, uint64_t value) {
    if (bits > 0 && state >> (64 - bits)) {
      put(static_cast<uint32_t>(state << bits | value));
      state = state >> (kWordBits - bits);
    } else {
      state = state << bits | value;
    }
  }
  inline uint64_t pop_bits(int bits) {
    const uint64_t mask = (uint64_t{1} << bits) - 1;
    if (state >> bits >> kWordBits) {
      const uint64_t value = state & mask;
      state >>= bits;
      return value;
    }
    const uint64_t word = take(), value = word & mask;
    state = state << (kWordBits - bits) | word >> bits;
    return value;
  }

  // A symbol that holds [start, start + mass) of the 2^kMassBits slots.
  inline void push_symbol(uint64_t start, uint64_t mass) {
    if (state >> (64 - kMassBits) >= mass) {
      put(static_cast<uint32_t>(state));
      state >>= kWordBits;
    }
    const uint64_t quotient = state / mass;
    state = (quotient << kMassBits) + start + (state - quotient * mass);
  }
  inline uint64_t slot() const { return state & ((uint64_t{1} << kMassBits) - 1); }
  inline void pop_symbol(uint64_t start, uint64_t mass) {
    state = (state >> kMassBits) * mass + slot() - start;
    if (state < kLeastState) state = state << kWordBits | take();
  }
};

}  // namespace vflow
