"""The table of exit codes, under the name by which supervisors know it."""

from tttscale.codes import BUG as BUG
from tttscale.codes import CHECKPOINT as CHECKPOINT
from tttscale.codes import CODES as CODES
from tttscale.codes import DATA as DATA
from tttscale.codes import DISK as DISK
from tttscale.codes import DONE as DONE
from tttscale.codes import FLAGS as FLAGS
from tttscale.codes import HANG as HANG
from tttscale.codes import INTERRUPTED as INTERRUPTED
from tttscale.codes import LAUNCH as LAUNCH
from tttscale.codes import NUMERICS as NUMERICS
from tttscale.codes import PEER as PEER
from tttscale.codes import PROBLEM as PROBLEM
from tttscale.codes import SAVED as SAVED
from tttscale.codes import TERMINATED as TERMINATED
from tttscale.codes import USAGE as USAGE
from tttscale.codes import Code as Code
