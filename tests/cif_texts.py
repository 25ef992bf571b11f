"""CIF texts of the kinds that people have, with what is right; each is a crystal or a reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

SITES = ("Na1 Na 0 0 0", "Cl1 Cl 0.5 0.5 0.5")
COLUMNS = ("label", "type_symbol", "fract_x", "fract_y", "fract_z")
CUBE = (4, 4, 4, 90, 90, 90)
HEXAGON = (3.25, 3.25, 5.207, 90, 90, 120)
ZINCITE = ("x,y,z", "-y,x-y,z", "-x+y,-x,z", "-x,-y,z+1/2", "y,-x+y,z+1/2", "x-y,x,z+1/2",
           "-y,-x,z", "-x+y,y,z", "x,x-y,z", "y,x,z+1/2", "x-y,-y,z+1/2",
           "-x,-x+y,z+1/2")  # fmt: skip


class Case(NamedTuple):
    """A text and its right answer: a formula such as ``Na4 Cl4``, or words of the reason."""

    name: str
    text: str
    formula: str | None = None
    reason: str | None = None


def cif(
    *extra: str,
    cell: Sequence[object] = CUBE,
    sites: Sequence[str] = SITES,
    columns: Sequence[str] = COLUMNS,
    name: str = "x",
) -> str:
    """Return a CIF with more lines before its sites."""
    names = [f"_cell_length_{x}" for x in "abc"]
    names += [f"_cell_angle_{x}" for x in ("alpha", "beta", "gamma")]
    lines = [f"data_{name}", *(f"{n} {v}" for n, v in zip(names, cell, strict=True)), *extra]
    return "\n".join([*lines, "loop_", *(f"_atom_site_{c}" for c in columns), *sites, ""])


def group(name: str) -> str:
    """Return the line of a space group's name."""
    return f"_symmetry_space_group_name_H-M '{name}'"


def operations(*triplets: str) -> str:
    """Return the loop of some operations."""
    return "\n".join(["loop_", "_symmetry_equiv_pos_as_xyz", *(f"'{t}'" for t in triplets)])


def formula(words: str, units: object = "?") -> str:
    """Return the lines of a formula sum and Z."""
    return f"_chemical_formula_sum '{words}'\n_cell_formula_units_Z {units}"


def _groups() -> list[Case]:
    one = ("Na1 Na 0.1 0.2 0.3",)
    bismuth = {"cell": (4.546, 4.546, 11.862, 90, 90, 120), "sites": ("Bi1 Bi 0 0 0.234",)}
    axes = {"cell": (4.746, 4.746, 4.746, 57.23, 57.23, 57.23), "sites": ("Bi1 Bi .234 .234 .234",)}
    silicon = {"cell": (5.431, 5.431, 5.431, 90, 90, 90)}
    eighth = ("Si1 Si 0.125 0.125 0.125",)
    good = {
        "Fm-3m": (cif(group("Fm-3m")), "Na4 Cl4"),
        "F m 3 m": (cif(group("F m 3 m")), "Na4 Cl4"),
        "capitals": (cif(group("FM-3M")), "Na4 Cl4"),
        "underscores": (cif(group("P_m_-3_m")), "Na1 Cl1"),
        "number in the name": (cif(group("P m -3 m (#221)")), "Na1 Cl1"),
        "P 21/c": (cif(group("P 21/c"), sites=one), "Na4"),
        "P 1 21/c 1": (cif(group("P 1 21/c 1"), sites=one), "Na4"),
        "P 21/c :b1": (cif(group("P 21/c :b1"), sites=one), "Na4"),
        "hexagonal axes": (cif(group("R -3 m"), **bismuth), "Bi6"),
        "R -3 m H": (cif(group("R -3 m H"), **bismuth), "Bi6"),
        "R-3mH": (cif(group("R-3mH"), **bismuth), "Bi6"),
        "R -3 m :H": (cif(group("R -3 m :H"), **bismuth), "Bi6"),
        "rhombohedral axes": (cif(group("R -3 m"), **axes), "Bi2"),
        "R -3 m R": (cif(group("R -3 m R"), **axes), "Bi2"),
        "R -3 m HR": (cif(group("R -3 m HR"), **axes), "Bi2"),
        "origin 2": (cif(group("F d -3 m :2"), sites=eighth, **silicon), "Si8"),
        "origin Z": (cif(group("F d -3 m Z"), sites=eighth, **silicon), "Si8"),
        "only a number": (cif("_symmetry_Int_Tables_number 221"), "Na1 Cl1"),
        "number and code": (
            cif("_space_group_IT_number 14", "_space_group_IT_coordinate_system_code b1",
                sites=one),
            "Na4",
        ),
        "Hall": (cif("_space_group_name_Hall '-P 4 2 3'"), "Na1 Cl1"),
        "Hall with origin": (
            cif("_space_group_name_Hall '-F 4vw 2vw 3'", sites=eighth, **silicon), "Si8"),
        "quoted ?": (cif(group("?"), operations("x,y,z")), "Na1 Cl1"),
        "written out": (cif(group("P m -3 m"), operations("x,y,z")), "Na1 Cl1"),
    }  # fmt: skip
    bad = {
        "origin not said": (cif(group("F d -3 m"), sites=eighth, **silicon), "its setting"),
        "origin not said in tetragonal": (cif(group("P 4/n")), "its setting"),
        "wrong code": (cif(group("P 21/c :b2")), "its setting"),
        "number with settings": (cif("_symmetry_Int_Tables_number 62"), "its setting"),
        "no such group": (cif(group("X y z")), "is not known"),
        "two groups": (cif(group("P m -3 m"), "_space_group_IT_number 14"), "14 and 221 at once"),
        "Hall against name": (
            cif("_space_group_name_Hall '-P 4 2 3'", group("F m -3 m")), "221 and 225 at once"),
        "no Hall symbol": (cif("_space_group_name_Hall '-P 4 2 X'"), "no Hall symbol"),
        "only a system": (cif("_symmetry_cell_setting cubic"), "neither space group nor"),
        "hexagonal said, axes are not": (cif(group("R -3 m :H"), **axes), "its setting"),
        "cell of another system": (cif(group("P 63/m m c")), "does not fit"),
        "lost operations": (cif(group("F m -3 m"), operations("x,y,z")), "names space group 225"),
        "lost operations of silicon": (
            cif(group("F d -3 m"), operations("x,y,z"), sites=eighth, **silicon),
            "space group 227"),
    }  # fmt: skip
    return _cases("group", good, bad)


def _operations() -> list[Case]:
    one = ("Na1 Na 0.1 0.2 0.3",)
    good = {
        "decimals": (cif(operations("x,y,z", "-x,-y,z+0.5"), sites=one), "Na2"),
        "short thirds": (
            cif(operations("x,y,z", "x+.33,y+.67,z+.67", "x+.667,y+.333,z+.333"),
                cell=HEXAGON, sites=one), "Na3"),
        "capitals and order": (cif(operations("X, Y, Z", "1/2-X, -Y, 1/2+Z"), sites=one), "Na2"),
        "listed twice": (cif(operations("x,y,z", "-x,-y,-z", "x+1,y,z"), sites=one), "Na2"),
        "with numbers": (
            cif("loop_\n_symmetry_equiv_pos_site_id\n_symmetry_equiv_pos_as_xyz", "1 x,y,z",
                "2 -x,-y,-z", sites=one), "Na2"),
        "fifths of a supercell": (
            cif(operations(*(f"x+{k}/5,y,z" for k in range(5))), cell=(20, 4, 4, 90, 90, 90),
                sites=one), "Na5"),
    }  # fmt: skip
    bad = {
        "incomplete": (cif(operations("x,y,z", "-y,x,z")), "no group"),
        "incomplete centring": (cif(operations("x,y,z", "x+1/3,y,z")), "no group"),
        "singular": (cif(operations("x,y,z", "x,x,z")), "singular"),
        "doubled": (cif(operations("x,y,z", "2x,y,z")), "singular"),
        "without identity": (cif(operations("-x,-y,z", "-x,y,z")), "x,y,z is not among"),
        "two parts": (cif(operations("x,y")), "three parts"),
        "words": (cif(operations("x,y,z", "a,b,c")), "cannot be read"),
        "a decimal of no group": (cif(operations("x,y,z", "x+0.3,y,z")), "no multiple"),
        "divided by zero": (cif(operations("x,y,z", "x+1/0,y,z")), "divides by zero"),
        "unknown one": (cif("loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\n?"), "not known"),
        "cell of lower symmetry": (
            cif(operations("x,y,z", "-y,x,z", "-x,-y,z", "y,-x,z"), cell=(4, 5, 6, 90, 90, 90)),
            "does not fit"),
    }  # fmt: skip
    return _cases("operations", good, bad)


def _thirds() -> list[Case]:
    def zincite(x: str, y: str, z: str = "0.382") -> str:
        sites = (f"Zn1 Zn {x} {y} 0", f"O1 O {x} {y} {z}")
        return cif(group("P 63 m c"), operations(*ZINCITE), cell=HEXAGON, sites=sites)

    good = {
        f"{x} {y}": (zincite(x, y), "Zn2 O2")
        for x, y in (("0.33", "0.67"), (".333", ".667"), ("0.3333", "0.6667"), ("0.33333333",
                     "0.66666667"), ("0.66", "0.33"), ("0.3333(2)", "0.6667(2)"), ("-0.33", "0.33"))
    }  # fmt: skip
    good["x, 2x"] = (
        cif(group("P 63 m c"), operations(*ZINCITE), cell=(8, 8, 5, 90, 90, 120),
            sites=("Zn1 Zn 0.167 0.333 0",)), "Zn6")  # fmt: skip
    good["eighths"] = (
        cif(group("F d -3 m :2"), cell=(5.431, 5.431, 5.431, 90, 90, 90),
            sites=("Si1 Si 0.13 0.12 0.13",)), "Si8")  # fmt: skip
    bad = {
        "beside the axis": (zincite("0.3420", "0.6580"), "within 0.5 A"),
        "one digit": (zincite("0.3", "0.7"), "within 0.5 A"),
    }
    return _cases("thirds", good, bad)


def _atoms() -> list[Case]:
    def typed(symbol: str, *more: str) -> str:
        return cif(*more, sites=(f"A1 {symbol} 0 0 0",))

    def labelled(label: str, *more: str) -> str:
        columns = [c for c in COLUMNS if c != "type_symbol"]
        return cif(*more, sites=(f"{label} 0 0 0",), columns=columns)

    good = {f"type {s}": (typed(s), f"{e}1") for s, e in (
        ("Na+", "Na"), ("Fe3+", "Fe"), ("Fe+3", "Fe"), ("O2-", "O"), ("O-2", "O"), ("FE", "Fe"),
        ("fe", "Fe"), ("Fe2.5+", "Fe"), ("D", "H"), ("T", "H"), ("Si0", "Si"))}  # fmt: skip
    good |= {f"label {s}": (labelled(s), f"{e}1") for s, e in (
        ("Na", "Na"), ("O1A", "O"), ("O1W", "O"), ("Ca1", "Ca"), ("MG1", "Mg"), ("D1", "H"),
        ("Fe_1", "Fe"), ("C1'", "C"))}  # fmt: skip
    good |= {
        "CA1 by formula": (labelled("CA1", formula("Ca")), "Ca1"),
        "CA1 of carbon": (labelled("CA1", formula("C")), "C1"),
        "T1 by formula": (labelled("T1", formula("H")), "H1"),
        "Ow1 by formula": (labelled("Ow1", formula("O")), "O1"),
        "D and formula of D": (typed("D", formula("D")), "H1"),
    }
    bad = {f"type {s}": (typed(s), "is no element")
           for s in ("OH", "Wat", "NH4", "H2O", "X", "Du", "Va", "CO", "HO", "Al/Si")}  # fmt: skip
    bad |= {f"label {s}": (labelled(s), "has no type symbol")
            for s in ("Wat", "OH", "OH1", "CA1", "CL1", "T1", "M1", "1Fe", "HO1", "Al/Si",
                      "Al0.5Si0.5", "Ow1")}  # fmt: skip
    bad |= {
        "fermium": (typed("Fm"), "atomic number 100"),
        "Wat by formula": (labelled("Wat", formula("H2 O")), "label"),
        "no symbols": (cif(sites=("0 0 0",), columns=COLUMNS[2:]), "neither type symbols"),
        "coordinates unknown": (cif(sites=(*SITES, "H1 H ? ? ?")), "site 3 is not known"),
        "one coordinate unknown": (cif(sites=("Na1 Na 0 . 0",)), "site 1 is not known"),
        "two atoms in one place": (cif(sites=("K1 K 0 0 0", *SITES)), "on top of each other"),
        "the same atom twice": (cif(sites=(*SITES, SITES[0])), "on top of each other"),
        "twice by symmetry": (
            cif(group("P m -3 m"), sites=("Na1 Na .5 0 0", "Na2 Na 0 .5 0")), "on top of each"),
        "no atoms": (cif(sites=()), "no atoms"),
    }  # fmt: skip
    return _cases("atoms", good, bad)


def _occupancies() -> list[Case]:
    def held(value: str, column: str = "occupancy") -> str:
        return cif(sites=(f"{SITES[0]} {value}",), columns=(*COLUMNS, column))

    good = {v: (held(v), "Na1") for v in ("1", ".", "?", "1.000(2)", "0.99", "1.01", "0.995")}
    good |= {f"group {v}": (held(v, "disorder_group"), "Na1") for v in (".", "?", "0")}
    good["no hydrogens attached"] = (held("0", "attached_hydrogens"), "Na1")
    bad = {v: (held(v), "partial occupancy: site 1 holds Na:") for v in
           ("0.5", "0", "1.02", "2", "-1", "0.98", "0.5(5)")}  # fmt: skip
    bad |= {
        "word": (held("full"), "is no number"),
        "disorder group": (held("1", "disorder_group"), "disorder"),
        "negative group": (held("-1", "disorder_group"), "disorder"),
        "assembly": (held("A", "disorder_assembly"), "disorder"),
        "dummy": (held("dum", "calc_flag"), "dummy"),
        "attached hydrogens": (held("2", "attached_hydrogens"), "hydrogens without a place"),
    }
    return _cases("occupancy", good, bad)


def _stated() -> list[Case]:
    good = {f"{w} Z {z}": (cif(formula(w, z)), "Na1 Cl1") for w, z in (
        ("Cl Na", 1), ("Na1 Cl1", "?"), ("NaCl", 1), ("NACL", 1), ("Na2 Cl2", "?"),
        ("Na + Cl -", 1), ("Na0.99 Cl", 1), ("(Na Cl)2", 0.5), ("Na Cl 1-", 1), ("?", 4),
        ("nonsense!", 1))}  # fmt: skip
    good |= {
        "of the whole cell": (cif(group("F m -3 m"), formula("Na4 Cl4", 4)), "Na4 Cl4"),
        "Z times": (cif(group("F m -3 m"), formula("Na Cl", 4)), "Na4 Cl4"),
        "folded": (cif("_chemical_formula_sum\n;\\\nNa\\\n Cl\n;"), "Na1 Cl1"),
        "in a text field": (cif("_chemical_formula_sum\n;\nNa\nCl\n;"), "Na1 Cl1"),
        "volume": (cif("_cell_volume 64.0(3)"), "Na1 Cl1"),
        "volume without digits": (cif("_cell_volume 64."), "Na1 Cl1"),
    }
    bad = {
        "Z": (cif(formula("Na Cl", 2)), "(Z = 2)"),
        "Z of a lost symmetry": (cif(formula("Na Cl", 4)), "(Z = 4)"),
        "ratio": (cif(formula("Na2 Cl")), "the formula is Cl1 Na2"),
        "an element more": (cif(formula("Na Cl O")), "the formula is"),
        "an element less": (cif(formula("Na")), "the formula is"),
        "hydrogens": (cif(formula("Na Cl H2")), "hydrogens are missing"),
        "hydrate": (cif(formula("NaCl(H2O)2")), "hydrogens are missing"),
        "deuterium": (cif(formula("Na Cl D")), "hydrogens are missing"),
        "volume": (cif("_cell_volume 70"), "_cell_volume is 70"),
        "volume of a primitive cell": (cif("_cell_volume 16.0"), "_cell_volume is 16"),
    }  # fmt: skip
    bad["one atom of many"] = (
        cif(formula("Na99", 1), sites=[f"Na{k} Na {k / 100} 0 0" for k in range(98)],
            cell=(200, 4, 4, 90, 90, 90)), "holds Na98")  # fmt: skip
    return _cases("stated", good, bad)


def _grammar() -> list[Case]:
    text = cif()
    dotted = text.replace("_atom_site_", "_atom_site.").replace("_cell_", "_cell.")
    cartesian = dotted.replace("fract_", "Cartn_")
    magnetic = "loop_\n_space_group_symop_magn_operation.xyz\nx,y,z,+1\n-x,-y,-z,-1"
    good = {
        "byte order": ("\ufeff" + text, "Na1 Cl1"),
        "lines of Windows": (text.replace("\n", "\r\n"), "Na1 Cl1"),
        "lines of old Macs": (text.replace("\n", "\r"), "Na1 Cl1"),
        "hard blanks": (text.replace("_a 4", "_a\u00a04"), "Na1 Cl1"),
        "minus sign": (text.replace("0.5 0.5 0.5", "0.5 \u22120.5 0.5"), "Na1 Cl1"),
        "accents": (cif("_publ_author_name J\u00f6rg"), "Na1 Cl1"),
        "uncertainty": (text.replace("0.5 0.5 0.5", "0.5000(12) .5 5e-1"), "Na1 Cl1"),
        "quotes": (text.replace("0.5 0.5 0.5", "'0.5' \"0.5\" 0.5"), "Na1 Cl1"),
        "dots": (dotted, "Na1 Cl1"),
        "capital names": (text.replace("_cell_length_a", "_CELL_Length_A"), "Na1 Cl1"),
        "block in a text field": (cif("_x\n;\ndata_y\nloop_\n;"), "Na1 Cl1"),
        "block of authors": ("data_global\n_journal_year 2020\n" + text, "Na1 Cl1"),
        "magnetic": (cif(magnetic, sites=("Na1 Na .1 .2 .3",)), "Na2"),
    }
    bad = {
        "two blocks": (text + cif(name="y"), "2 blocks hold crystals (x, y)"),
        "two of one name": (text + text, "2 blocks hold crystals (x, x)"),
        "name given twice": (cif("_cell_length_a 5"), "duplicate tag"),
        "dotted and not": (cif("_cell.length_a 5"), "given twice"),
        "no angle": (text.replace("_cell_angle_beta 90\n", ""), "_cell_angle_beta is missing"),
        "unknown length": (text.replace("_a 4", "_a ?"), "_cell_length_a is not known"),
        "impossible angles": (cif(cell=(4, 4, 4, 10, 100, 30)), "zero volume"),
        "negative length": (cif(cell=(-4, 4, 4, 90, 90, 90)), "no lengths"),
        "not finite in float32": (cif(cell=("1e308",) * 3 + (90,) * 3), "1e+308 angstrom long"),
        "atom on its image": (cif(cell=(0.3, 4, 4, 90, 90, 90)), "from its own image"),
        "mmCIF": (cartesian, "mmCIF"),
        "Cartesian": (text.replace("fract_", "Cartn_"), "Cartesian coordinates"),
        "powder": ("data_x\n_pd_meas_2theta_range_min 3\n", "_cell_length_a is missing"),
        "NUL": (text + "\0", "unparsable CIF"),
        "cut in a loop": (text.rstrip()[:-8], "unparsable CIF"),
        "open quote": (cif("_x 'open"), "unparsable CIF"),
        "modulated": (cif("_cell_modulation_dimension 1"), "modulated"),
        "magnetic without operations": (cif("_space_group_magn.number_BNS 1.1"), "magnetic"),
    } | {f"coordinate {c}": (text.replace("0.5 0.5 0.5", f"0.5 0.5 {c}"), words) for c, words in (
        ("0,5", "is no number"), ("nan", "is no number"), ("inf", "is no number"),
        ("1e400", "over 1000"), ("1_0", "is no number"), ("0x1", "is no number"),
        ("1/2", "is no number"), ("\u0660.\u0665", "is no number"), ("12345", "over 1000"),
        ("0.5(", "is no number"), ("\u20130.5", "is no number"))}  # fmt: skip
    return _cases("grammar", good, bad)


def _cases(
    kind: str, good: dict[str, tuple[str, str]], bad: dict[str, tuple[str, str]]
) -> list[Case]:
    right = [Case(f"{kind}: {n}", text, formula=answer) for n, (text, answer) in good.items()]
    return right + [Case(f"{kind}: {n}", text, reason=why) for n, (text, why) in bad.items()]


CASES = [*_groups(), *_operations(), *_thirds(), *_atoms(), *_occupancies(), *_stated(),
         *_grammar()]  # fmt: skip
