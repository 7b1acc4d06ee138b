"""Make `spectra.csv` and `attenuation.csv` again.

    pip install spekpy==2.5.4 xraylib==4.3.0
    python make_tables.py

Not needed to use the library: the tables are part of it. Sources:

- Tube spectra: SpekPy 2.5.4 (MIT), model spekpy-v2-casim with NIST attenuation, tungsten anode of 12 degrees
  without a filter. Poludniowski, Omar, Bujila and Andreo, "SpekPy v2.0: a software toolkit for modeling x-ray tube
  spectra", Med. Phys. 48 (2021) 3630, doi 10.1002/mp.14945; Omar, Andreo and Poludniowski, Med. Phys. 47 (2020) 4763.
- Mass attenuation: xraylib 4.3.0 (BSD), Schoonjans et al., Spectrochim. Acta B 66 (2011) 776. It agrees with NIST's
  tables (Hubbell and Seltzer, NISTIR 5632, https://www.nist.gov/pml/x-ray-mass-attenuation-coefficients) within 0.2 %
  at the energies tested.
- Compositions: ICRU Report 44 (1989) soft tissue and cortical bone, as in Table 2 of NISTIR 5632.
- Mass energy absorption of air: NIST's, as SpekPy carries it.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np
import spekpy
import xraylib

FOLDER = Path(__file__).parent
ENERGIES = np.arange(10.5, 140.0, 1.0)  # centres of bins of 1 keV
KILOVOLTS = range(60, 141, 5)
ANODE_DEGREES = 12.0

MATERIALS = {  # mass fractions
    "water": {"H": 0.111894, "O": 0.888106},
    "soft": {
        "H": 0.102, "C": 0.143, "N": 0.034, "O": 0.708, "Na": 0.002, "P": 0.003, "S": 0.003, "Cl": 0.002, "K": 0.003,
    },
    "bone": {
        "H": 0.034, "C": 0.155, "N": 0.042, "O": 0.435, "Na": 0.001, "Mg": 0.002, "P": 0.103, "S": 0.003, "Ca": 0.225,
    },
    "iodine": {"I": 1.0},
    "iron": {"Fe": 1.0},
    "aluminium": {"Al": 1.0},
    "copper": {"Cu": 1.0},
    "csi": {"Cs": 0.511549, "I": 0.488451},
}  # fmt: skip


def fluence(kvp: int) -> np.ndarray:
    """Photons per keV, cm2 and mAs at one metre from an unfiltered tube; (energies,)."""
    tube = spekpy.Spek(kvp=kvp, th=ANODE_DEGREES, dk=1.0, z=100.0, mas=1.0, mu_data_source="nist")
    energies, photons = tube.get_spectrum()
    return np.interp(ENERGIES, energies, photons, right=0.0)


def attenuation(fractions: dict[str, float]) -> np.ndarray:
    """Total mass attenuation of a mixture [cm2/g]; (energies,)."""
    elements = [(xraylib.SymbolToAtomicNumber(symbol), share) for symbol, share in fractions.items()]
    return np.array(
        [sum(share * xraylib.CS_Total(number, energy) for number, share in elements) for energy in ENERGIES]
    )


def air_absorption() -> np.ndarray:
    """Mass energy absorption of air [cm2/g]; (energies,)."""
    air = spekpy.Spek(kvp=140, th=ANODE_DEGREES, mu_data_source="nist").muen_air_data
    return air.get_muen_over_rho_air(ENERGIES)


def write(name: str, heading: str, columns: dict[str, np.ndarray]) -> None:
    """A CSV of the columns over energy, its sources in comment lines."""
    lines = [f"# {line}" for line in heading.splitlines()]
    lines.append(",".join(["kev", *columns]))
    for row, energy in enumerate(ENERGIES):
        lines.append(",".join([f"{energy:g}", *(f"{column[row]:.5g}" for column in columns.values())]))
    (FOLDER / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    versions = f"Made by make_tables.py with spekpy {version('spekpy')} and xraylib {version('xraylib')}; see there."
    write(
        "spectra.csv",
        f"{versions}\nPhotons per keV, cm2 and mAs at 1 m from an unfiltered tungsten anode of {ANODE_DEGREES:g} "
        "degrees;\ncolumns: tube voltage [kVp]; rows: centre of a bin of 1 keV.",
        {f"{kvp}": fluence(kvp) for kvp in KILOVOLTS},
    )
    write(
        "attenuation.csv",
        f"{versions}\nTotal mass attenuation [cm2/g], of air the mass energy absorption; rows: photon energy [keV].",
        {name: attenuation(fractions) for name, fractions in MATERIALS.items()} | {"air_absorption": air_absorption()},
    )


if __name__ == "__main__":
    main()
