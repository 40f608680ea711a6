// What epilogues need to know of levels, made on the host and passed as a kernel's argument.
#pragma once

#include <cmath>

#include "common/rows.h"
#include "common/target_gain.h"

namespace wassrank::cuda {

struct LevelTables {
  double p;
  bool even;                         // levels lie at 0, 1, 2, ...
  double position[kMaxLevels] = {};  // coordinates
  double ground[kMaxLevels] = {};    // |d|^p, if even and p != 1: 32 numbers against as many exponentials a lane
  double gain[kMaxLevels] = {};      // target_gain

  explicit LevelTables(const LevelLossesForward& args) : p(args.p), even(!args.position) {
    for (int l = 0; l < args.rows.levels; ++l) {
      position[l] = even ? l : args.position[l];
      if (even && p != 1) ground[l] = std::pow(static_cast<double>(l), p);
      gain[l] = target_gain(args.target_kind, l, args.label_temperature);
    }
  }
};

}  // namespace wassrank::cuda
