// How much of the target's mass a passage of a given level asks for, before a row's masses are normalised.
#pragma once

#include <cmath>

#include "common/rows.h"

namespace wassrank {

// Of Target::softmax, linear and exp2. For softmax it is the gain of a passage `level` levels below the row's highest.
WASSRANK_HOST_DEVICE inline double target_gain(Target target, int level, double label_temperature) {
  switch (target) {
    case Target::softmax: return std::exp(-level / label_temperature);
    case Target::linear: return level;
    case Target::exp2: return std::exp2(static_cast<double>(level)) - 1;
    case Target::given: break;
  }
  return 1;
}

// Of Target::linear and exp2, for a label that is any number; one below zero asks for nothing.
WASSRANK_HOST_DEVICE inline double label_gain(Target target, double label) {
  const double gain = target == Target::linear ? label : std::exp2(label) - 1;
  return gain > 0 ? gain : 0;
}

// gain * log(gain), 0 where there is no gain: what an entropy is made of.
WASSRANK_HOST_DEVICE inline double gain_log_gain(Target target, int level, double label_temperature) {
  const double gain = target_gain(target, level, label_temperature);
  if (target == Target::softmax) return gain * (-level / label_temperature);  // also where the gain underflows
  return gain > 0 ? gain * std::log(gain) : 0;
}

}  // namespace wassrank
