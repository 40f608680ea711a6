// |d|^p, what carrying mass over a distance costs, and its derivative, for the p that have a short form and for any.
#pragma once

#include <cmath>

namespace wassrank {

struct Distance {
  static double of(double d) { return std::abs(d); }
  static double slope(double d) { return static_cast<double>((d > 0) - (d < 0)); }
};
struct Square {
  static double of(double d) { return d * d; }
  static double slope(double d) { return 2 * d; }
};
struct Power {
  double p;
  double of(double d) const { return std::pow(std::abs(d), p); }
  double slope(double d) const { return std::copysign(p * std::pow(std::abs(d), p - 1), d); }
};

// Calls body with the one for p.
template <class Body>
auto with_ground(double p, Body body) {
  if (p == 1) return body(Distance{});
  if (p == 2) return body(Square{});
  return body(Power{p});
}

}  // namespace wassrank
