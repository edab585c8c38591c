"""How a file is read, as its name or `--format` declares it; it is never guessed from its content."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tttscale.data.builder.streams import CODECS
from tttscale.errors import DataError

Kind = Literal["text", "jsonl", "parquet"]
KINDS: tuple[Kind, ...] = ("text", "jsonl", "parquet")
_KINDS: dict[str, Kind] = {kind: kind for kind in KINDS}
NO_ENDING = "none"
"""What `--format none=text` calls a file without an ending."""
ENDINGS: dict[Kind, str] = {
    "jsonl": ".jsonl .ndjson .jsonlines .jl .json",
    "parquet": ".parquet .pq",
    "text": (
        ".txt .text .md .markdown .mdx .rst .adoc .asciidoc .org .tex .ltx .sty .cls .bib .texi "
        ".html .htm .xhtml .xml .xsl .svg .srt .vtt .po .pot .log .diff .patch .eml .wiki "
        ".yaml .yml .toml .ini .cfg .conf .properties .cmake .mk .mak .make .ninja .bzl .bazel "
        ".gradle .am .ac .m4 .in .proto .thrift .graphql .gql .tf .hcl .nix .dockerfile "
        ".py .pyi .pyx .pxd .pxi .pyw .pyf .c .h .cc .cpp .cxx .c++ .hh .hpp .hxx .inl .ipp .cu .cuh .cl .m "
        ".mm .java .kt .kts .scala .sc .groovy .clj .cljs .cljc .edn .cs .csx .fs .fsi .fsx .vb "
        ".go .rs .swift .d .nim .zig .v .sv .svh .vh .vhd .vhdl .asm .s .ll .wat .ptx "
        ".js .mjs .cjs .jsx .ts .tsx .mts .cts .vue .svelte .css .scss .sass .less .coffee .elm .dart "
        ".rb .rake .gemspec .php .pl .pm .pod .t .r .rmd .lua .tcl .awk .sed .vim .el .lisp .lsp .scm "
        ".ss .rkt .hs .lhs .ml .mli .mll .mly .ex .exs .erl .hrl .f .for .f77 .f90 .f95 .f03 .f08 .pas "
        ".pp .ada .adb .ads .cob .cbl .sol .jinja .j2 .tmpl .tpl .erb .haml .pug .hbs .mustache "
        ".sh .bash .zsh .fish .csh .ksh .ps1 .psm1 .bat .cmd .sql .glsl .vert .frag .geom .hlsl .wgsl "
        ".metal .g4 .y .l .lean .agda .thy .coq .idr .purs .cr .hx .gd .pro .qml .desktop .service"
    ),
}
NAMES: dict[Kind, str] = {
    "text": (
        "readme license licence copying copyright notice authors contributors maintainers credits "
        "thanks changelog changes history news todo install contributing code_of_conduct security "
        "version makefile gnumakefile dockerfile containerfile jenkinsfile vagrantfile rakefile gemfile "
        "procfile brewfile podfile kconfig kbuild codeowners build workspace"
    )
}
"""Names of files that usually have no ending."""
# Read as text these would give noise, and the byte tokenizer would take it without an error.
UNSUPPORTED = (
    ".arrow .feather .orc .avro .zip .tar .tgz .tbz .tbz2 .txz .7z .rar .lz4 .lzma .lz .lzo .br .z .sz "
    ".snappy .gzip .zstd .bzip2"
)


def _inverse(table: Mapping[Kind, str]) -> dict[str, Kind]:
    return {word: kind for kind, words in table.items() for word in words.split()}


_KIND_OF_ENDING, _KIND_OF_NAME = _inverse(ENDINGS), _inverse(NAMES)


def is_compressed(path: str | Path) -> bool:
    """Whether the file is compressed, so that it can only be read from its beginning."""
    return Path(path).suffix.lower() in CODECS


def bare_suffix(path: str | Path) -> str:
    """The ending of the name in lower case, without that of the compression."""
    path = Path(path)
    return (Path(path.stem).suffix if is_compressed(path) else path.suffix).lower()


def kind_of(path: str | Path) -> Kind | None:
    """How the file is read, by its name; None where the name does not say."""
    ending = bare_suffix(path)
    if ending:
        return _KIND_OF_ENDING.get(ending)
    path = Path(path)
    return _KIND_OF_NAME.get((path.stem if is_compressed(path) else path.name).lower())


@dataclass(frozen=True)
class FileFormats:
    """How files are read: as `--format` says, else by the endings of their names."""

    every: Kind | None = None
    """For every file; None leaves it to the endings."""
    by_ending: Mapping[str, Kind] = field(default_factory=dict)
    """For files of one ending, which comes first; "" for files without one."""

    @classmethod
    def parse(cls, words: Sequence[str]) -> "FileFormats":
        """Parse what `--format` was given: KIND, or ENDING=KIND, any number of them.

        Raises:
            DataError: there is no such kind, or two contradict each other.
        """
        every: set[Kind] = set()
        by_ending: dict[str, Kind] = {}
        for word in words:
            ending, sign, name = word.rpartition("=")
            kind = _KINDS.get(name.strip().lower())
            ending = ending.strip().lower()
            if kind is None or (sign and not ending.startswith(".") and ending != NO_ENDING):
                raise DataError(
                    f"--format {word}: give {', '.join(KINDS)} for all files, or one of them for an "
                    f"ending, such as --format .log=text (files without an ending: "
                    f"{NO_ENDING}=text)."
                )
            ending = "" if ending == NO_ENDING else ending
            if sign and by_ending.setdefault(ending, kind) != kind:
                raise DataError(
                    f"--format {word}: contradicts --format {ending}={by_ending[ending]}."
                )
            if not sign:
                every.add(kind)
        if len(every) > 1:
            raise DataError(f"--format {' and '.join(sorted(every))}: give one, or ENDING=KIND.")
        return cls(next(iter(every), None), by_ending)

    def declared(self, path: str | Path) -> Kind | None:
        """How `path` is read by `--format`; None if it does not say."""
        return self.by_ending.get(bare_suffix(path)) or self.every

    def of(self, path: str | Path) -> Kind | None:
        """How `path` is read; None where neither `--format` nor its name says it."""
        return self.declared(path) or kind_of(path)

    def check(self, files: Iterable[Path]) -> None:
        """Refuse files whose kind is not declared, and those that cannot be read as declared.

        Raises:
            DataError: there are such files; all their endings are named.
        """
        unknown: dict[str, list[Path]] = {}
        for file in files:
            ending = bare_suffix(file)
            if ending and ending in UNSUPPORTED.split():
                raise DataError(
                    f"source {file}: {ending} files are not supported. Unpack or convert it to text, "
                    ".jsonl or .parquet (.gz, .zst, .bz2 and .xz need not be unpacked), or leave it "
                    "out with --suffix or --exclude."
                )
            kind = self.of(file)
            if kind == "parquet" and is_compressed(file):
                raise DataError(
                    f"source {file}: Parquet is not read through {file.suffix}, since it is "
                    "compressed inside. Unpack it."
                )
            if kind is None:
                unknown.setdefault(ending, []).append(file)
        if unknown:
            _refuse_unknown(unknown)

    def used(self, files: Iterable[Path]) -> dict[str, int]:
        """How many files were read in which way, and what declared it, for the store's manifest."""
        found: Counter[str] = Counter()
        for file in files:
            ending = bare_suffix(file)
            who = "--format" if self.declared(file) else "by ending" if ending else "by name"
            found[f"{ending or 'no ending'} as {self.of(file)} ({who})"] += 1
        return dict(sorted(found.items()))


def _refuse_unknown(unknown: Mapping[str, Sequence[Path]]) -> None:
    most = sorted(unknown.items(), key=lambda item: (-len(item[1]), item[0]))
    named = [f"{ending or 'no ending'} ({len(files)}: {files[0]})" for ending, files in most]
    more = f" and {len(named) - 8} more endings" if named[8:] else ""
    first = most[0][0] or NO_ENDING
    raise DataError(
        f"SOURCES: how to read these files is not known: {', '.join(named[:8])}{more}. Say it with "
        f"--format {first}={'|'.join(KINDS)} (or --format {KINDS[0]} for all files), take only the "
        "intended ones with --suffix, or leave them out with --exclude."
    )
