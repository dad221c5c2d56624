"""Every bound of the program, each with where its number comes from. One place, so that nothing is unbounded by oversight.

Sizes are in bytes (`_bytes_`), times in seconds (`_s`), unless the name says otherwise. Import a bound from here, whichever
of the files it stands in.
"""

from __future__ import annotations

from cocoon_p2p.limits.blobs import *
from cocoon_p2p.limits.discovery import *
from cocoon_p2p.limits.engine import *
from cocoon_p2p.limits.generation import *
from cocoon_p2p.limits.jobs import *
from cocoon_p2p.limits.market import *
from cocoon_p2p.limits.models import *
from cocoon_p2p.limits.network import *
from cocoon_p2p.limits.records import *
from cocoon_p2p.limits.sessions import *
from cocoon_p2p.limits.sizes import *
from cocoon_p2p.limits.upstream import *
from cocoon_p2p.limits.walls import *
