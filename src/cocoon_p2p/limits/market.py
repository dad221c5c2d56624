"""Bounds of the market: announcements and books, choosing providers, prices, history, evidence."""

from __future__ import annotations

from cocoon_p2p.limits.sizes import KIB, MIB

# --- announcements and books (wire/capacity.py, proto/market.py) -------------------------------------------------------
REGION_CHARS_MAX = 16
""""us-east-1" and the like; a hint, not an address."""
BOOK_ANSWER_MAX = 32
"""Announcements in one answer: more than anybody chooses among; at 16 KiB each half a frame."""
BOOK_SUBNET_SHARE = 8
"""One public subnet (IPv4 /24, IPv6 /48) has at most this part of a book: eight owners are the least that a book tells of."""
BOOK_SUBNET_PEERS_MAX = 32
"""Peers of one public subnet in a book: a rack; DHT_PROVIDERS_PER_SUBNET_MAX says 16 of one content."""
OFFERS_DRAWN_MAX = 256
"""Offers of a large market among which one purchase chooses: twice what it looks at (CONSIDERED_MAX, of known and unknown)."""
BOOK_OFFERS_MAX = 64 * KIB
"""Offers in a book: six of each peer of a full one (BOOK_PEERS_MAX); at about 1 KB each, with all that finds them, 64 MB."""
BOOK_CONFIRMED_PEERS_MAX = 4096
"""Peers of which is remembered where they were reached, at 200 bytes: as many as we have experiences with."""
BOOK_PAST_PEERS_MAX = 1024
"""Peers whose announcement expired, remembered to be asked again: at about 2 KB each 2 MB."""
BOOK_QUESTIONS_PER_PEER_S = 2.0
BOOK_QUESTIONS_PER_PEER_BURST = 32
"""What one peer may ask of our book: an answer is up to 512 KiB, and usually 15 KB. We ask half as much of each."""
MANIFEST_QUESTIONS_PER_PEER_S = 0.5
MANIFEST_QUESTIONS_PER_PEER_BURST = 2 * 64
"""What one peer may ask for manifests of up to 256 KiB: twice for each model of an announcement, then 128 KiB a second."""
BOOKS_ASKED_AT_ONCE = 3
"""Neighbours whose books are asked at the same time: one that lies by silence does not hide an offer."""
VERIFIED_REMEMBERED_MAX = 16_384
VERIFIED_REMEMBERED_BYTES_MAX = 8 * MIB
"""Announcements whose signatures are not checked again (60 µs each, measured): the last minute of a network of 8,000."""
ANNOUNCEMENT_JITTER = 0.1
"""At most this part of the interval earlier."""
ANNOUNCEMENT_FRESH_S = 25.0
"""Whoever asks is not given an older one: it has more than half of its life left."""
ANNOUNCEMENTS_PER_AUTHOR_S = 1.0
ANNOUNCEMENTS_PER_AUTHOR_BURST = 10
"""What one author may gossip: it may announce once a second (ANNOUNCEMENT_MIN_INTERVAL_S), and a few bunch on their way."""
GOSSIP_TOPIC_PER_S = 20.0
GOSSIP_TOPIC_BURST = 200.0
"""What is taken of all authors together: some fifty times the budget (GOSSIP_ANNOUNCEMENTS_PER_MINUTE, with news), and as much
at once as 200 providers say that start together; to check and keep 20 takes 20 ms of a second at worst."""
GOSSIP_STRANGERS_SHARE = 0.5
"""Of that, for authors that never answered us: the other half is left for those that did, whoever floods."""
GOSSIP_PROBE_S = 30.0
"""While the topic is full, how often one such author is asked whether it is there: as often as an announcement is due."""
GOSSIP_PROBES_COUNTED = 8
"""Last ones asked, by which the share of real ones is judged: four minutes' worth."""
GOSSIP_PROBES_MIN = 4
"""With fewer answers, or silences, all are taken for real."""
RECORD_ADDRESSES_S = 3600.0
"""After it was issued, a DHT record's addresses are used for so long (capacity/1 §5.2)."""
RECORD_INTERVAL_S = 600.0
"""The DHT record tells where a peer is; unchanged it is put anew this often, twice within the time that records are kept."""
GOSSIP_ANNOUNCEMENTS_PER_MINUTE = 15
"""Announcements that the whole topic should carry, however large the network: at 300 to 350 bytes, each of which is eight on the
wire (bench/mesh.py), 0.7 KB a second and node."""
GOSSIP_ROOM_SHARE = 0.8
"""Up to this part of it everybody speaks when it is his turn; five nodes that announce every 27 to 30 s stay below."""
GOSSIP_RATE_WINDOW_S = 60.0
LISTEN_BACK_S = 1.0
"""What a new node waits for the answer of one neighbour before it announces itself: three round trips round the world."""
GOSSIP_CHANGE_BURST = 6
GOSSIP_CHANGE_INTERVAL_S = 15.0
"""Changes of one provider that everybody hears of at once: some, and then one in so many seconds. Whoever asks, hears all."""
OFFERS_LOOK_INTERVAL_S = 0.25
"""How often a node looks for whoever asks whether its load has changed; a look takes some 50 µs."""
MANIFEST_STAGGER_S = 0.3
"""A provider that has not answered by then is not waited for alone: three round trips of a continent."""
MARKET_FRESH_OFFERS = 8
"""With fewer current offers of a model that is in use, more are looked for."""
MARKET_FRESH_AGE_S = 45.0
"""Offers of a model in use that are older are asked for again, before they expire."""
MARKET_USED_S = 300.0
"""How long after its last job a model is kept fresh."""
MARKET_USED_MODELS_MAX = 64
"""Models kept fresh at the same time; the least recently used goes first."""
MARKET_FRESH_TICK_S = 5.0
"""How often it is looked at: three times in the quarter of a minute between "old" and "expired"."""
MARKET_FRESH_BACKOFF_MAX_S = 120.0
"""Looking for more that finds nobody new is repeated more and more rarely, up to this."""
PROVIDERS_ASKED_AT_ONCE = 8
"""Providers asked for their own word in one go: of those that the DHT lists, drawn at random, so that they share the load."""
JOURNAL_FLUSH_S = 5.0
JOURNAL_BATCH = 256
"""Announcements that wait to be written together; `kill -9` loses these at most."""
JOURNAL_SAMPLE_S = 60.0
"""Between two samples of prices."""
JOURNAL_SAMPLES_MAX = 512
"""Of one moment, those that most providers offer first: anybody can announce any number of models, and 512 rows take 5 ms."""
JOURNAL_HINTS_MAX = 1024
"""Peers of the last run that a start begins with."""
JOURNAL_HINT_ROWS_MAX = 20_000
"""Rows looked through for them: 20 ms."""


# --- jobs (proto/job_client.py, proto/job_provider.py) -----------------------------------------------------------------
REFUSAL_BYTES_MAX = 4 * KIB
"""512 characters of detail in UTF-8 are 2 KiB at most; ids and numbers 250 bytes."""
FIRM_INPUT_BYTES_MAX = MIB
"""A larger input is not sent before the provider has said yes: a no would have wasted it."""
FIRM_GRACE_S = 10.0
"""How long after an announcement expired its price is honoured: the clock skew that announcements are allowed."""
PROGRESS_INTERVAL_S = 2.0
"""A provider that works longer says so this often: 20 bytes, so that a frozen one is found within PROGRESS_SILENCE_S."""
PROGRESS_SILENCE_S = 7.0
"""Three messages lost, and a second of delay: the provider is given up and the job goes elsewhere."""
FIRM_PRICES_MAX = 4096
"""Announced prices that a provider remembers: 64 models, three tiers, and a price that moved every 3 s of a minute."""
ANSWERS_UNPAID_PER_S = 64.0
"""Quotes and refusals that one client gets signed, a second, without giving a job: a signature costs 0.1 ms, so all
of them less than a hundredth of a core."""
ANSWERS_UNPAID_BURST = 512.0
"""As many at once: twice what a `map` asks one provider for at the same time (MAP_IN_FLIGHT_MAX)."""
LATE_JOBS_FREE = 8
"""Jobs that a client may leave after work was done, though it pays for less: a program that was stopped a few times is no abuse."""
LATE_VALUE_FREE = 10_000_000
"""Nanogram that this work may be worth in all: the most that a client pays for one job unless it says otherwise ([client] max_price);
with eight jobs, each has the price of a prompt of 12,500 tokens as it is by default ([provider] price_per_token). One job is free
whatever it cost, since nobody can tell an accident from the first of many. A new identity has no more than this."""
LATE_CANCELS_HALF_LIFE_S = 3600.0
"""What was thrown away, and what was paid, counts half after an hour: whoever lost its standing by nine jobs has it back within
ten minutes, by sixteen within the hour."""
LATE_JOBS_RECALLED = 256
"""Of one client, jobs that are read again after a restart (1 ms): as many as one `map` has under way (MAP_IN_FLIGHT_MAX)."""
LATE_CANCELS_CLIENTS_MAX = 4096
"""Clients whose account a provider has in memory, at about 300 bytes each, and 200 for each receipt that is not signed."""
RECEIPT_SIGNED_WITHIN_S = 30.0
"""A receipt that its client has not signed by then counts as work thrown away: an honest one signs within a round trip, and
one whose line broke comes back within half a minute, or signs when it does."""
RECEIPTS_UNSIGNED_MAX = 256
"""Of one client: as many as one `map` has under way (MAP_IN_FLIGHT_MAX). Who lets more gather could cancel them all."""
OUTPUT_SILENCE_S = 30.0
"""Between two messages of a job whose input or output is on its way: a frame of 1 MiB at 280 kbit/s."""
FIRM_TIME_LEFT_S = 1.0
"""An announcement that expires sooner is not taken as a firm offer: the submission has to arrive in time."""
FIRM_KEY_LEFT_S = 30.0
"""What a remembered seal key must still be good for: 1 MiB of input at 0.5 Mbit/s, and clocks 10 s apart."""
SEAL_KEYS_REMEMBERED_MAX = 256
"""Providers whose seal key a client keeps, at 1.5 KB."""
JOBS_UNSETTLED_MAX = 4096
"""Jobs without an outcome that a client keeps in memory, at about 1 KB: JOBS_PER_PEER_MAX of 64 providers."""
BUSY_WAIT_MIN_S = 0.05
BUSY_WAIT_MAX_S = 2.0
"""How long a job that lost its provider waits for room at the others before it asks again; twice as long each time."""
HEDGE_MAX = 4
"""Providers that one job is at, at the same time; each one more gains less and wastes their work."""
BACKUP_LEARNED_FACTOR = 1.5
"""Of the time that a job of ours usually takes there, before a second provider gets it: few are as late by chance."""
BACKUP_ANNOUNCED_FACTOR = 2.0
"""The same of the time that was only announced: it may be another machine's, or a smaller input's."""
BACKUP_UNKNOWN_S = 1.0
"""Where nothing is known: longer than most jobs take, and what a person does not mind."""
BACKUP_MIN_S = 0.02
"""Below this the round trip to a second provider gains nothing."""
BACKUP_TRANSFER_BYTES_PER_S = 12.5e6
"""What an input takes on its way, at 100 Mbit/s; what was learned of small inputs says nothing of large ones."""
BACKUP_AGAIN_S = 1.0
"""When nobody fits who could be a backup: how soon one is looked for again; the wait doubles."""
QUORUM_MAX = 9
"""Answers that are compared; nine outvote four liars."""
MAP_IN_FLIGHT_MAX = 256
"""Items of one `map` under way at the same time: four providers' worth of JOBS_PER_PEER_MAX."""


# --- choosing providers (policy/selection.py, policy/experience.py, drivers/purchase.py) -----------------------------------
QUESTION_ROUNDS_MAX = 32
"""Rounds of questions of one job that bring nobody who does it: at ASKED_AT_ONCE_MAX each more providers than one choice
looks at (CONSIDERED_MAX), so that a crowd that refuses everything uses up time, and not the job's attempts."""
COUNTER_ASKED_S = 1.0
"""How long a provider that wants more than it announced is waited for once more, while others' quotes are there: three round
trips round the world."""
PROVIDERS_COUNTED_S = 1.0
"""For so long the number of a model's providers is not counted anew: a `map` asks for it with every item."""
NAMES_REMEMBERED_MAX = 256
"""Names of models of which it is known what they stood for last; more than one person uses."""
AMBIGUOUS_SHOWN_MAX = 5
"""Models of one name that an error lists; anybody can announce any number."""
CONSIDERED_MAX = 64
"""Offers of strangers, drawn at random, and as many of providers that we know, that one choice looks at: 1 ms at most."""
SUBNET_DRAWN_MAX = 2
SUBNET_ASKED_MAX = 1
"""Of SELECTION_SAMPLE drawn and of ASKED_AT_ONCE_MAX asked: whoever rents one subnet cannot be all of our choice."""
NEWCOMER_TRIES = 5
"""Jobs after which a provider is known: by then its reliability can be told from a half."""
NEWCOMER_SHARE = 0.05
"""Of our jobs, for providers that we do not know, while one fits that we know and that is good: one job in twenty finds
better ones within a day, and a crowd of fake peers gets no more than that."""
KNOWN_GOOD_WANTED = 4
"""Good providers that a client should know of a model: as many as may fail in one job before it does (JOB_ATTEMPTS_MAX)."""
KNOWN_GOOD_RELIABILITY = 0.7
"""Five of five (0.86), or a job in four failed: what a stranger's half is not."""
KNOWN_BAD_RELIABILITY = 0.3
"""Three of four jobs failed. A low price must not make up for that: whoever fails every job for nothing would get them all."""
EXPERIENCE_HALF_LIFE_S = 7 * 86_400.0
"""A machine that was bad last week may have a new disk; one that was good may have a new owner."""
EXPERIENCES_KEPT_MAX = 4096
"""Of one model at one provider each, at about 150 bytes in the store and 300 in memory."""
CONSIDERATIONS_KEPT_MAX = 1000
"""Orders of which `cocoon-node why` knows who was considered; with CONSIDERATION_BYTES_MAX 16 MB at most, mostly 1 MB."""
QUORUM_LEGS_MAX = 4 * QUORUM_MAX
"""Answers of one quorum that `cocoon-node why` shows, those who failed and were replaced among them."""
CONSIDERATION_BYTES_MAX = 16 * KIB
CONSIDERED_KEPT_MAX = 32
"""Providers in what is kept of one order: those asked first; a signed refusal is 600 bytes."""
DRY_RUN_ASKED_MAX = 16
"""Providers that a dry run asks: a screenful."""


# --- evidence (wire/evidence.py) ---------------------------------------------------------------------------------------
EVIDENCE_BYTES_MAX = 16 * MIB
"""Input and both answers of one job; canary jobs have kilobytes."""
EVIDENCE_FILES_MAX = 64
"""Files that a home keeps; the oldest go first. Of canary jobs, whose inputs and answers have kilobytes."""
EVIDENCE_HELD_BYTES_MAX = 64 * MIB
"""Evidence of people's own jobs, in memory only: four of the largest."""
COMPARED_INLINE_BYTES_MAX = MIB
"""Answers up to here are compared at once (some 3 ms); larger ones in a thread."""
COMPARED_AT_ONCE = 256 * KIB
"""Elements of two answers in float64 at the same time: 2 MiB each, and as much again for their difference."""
CANARY_DIM_MAX = 16
"""Free dimensions of a made-up input: as many rows as run together (BATCH_ITEMS_MAX), and a matrix stays within a kilobyte."""
CANARY_BYTES_MAX = MIB
"""The input of a canary: a picture of 256 × 256 × 3 in float32 is within it. Drawing that takes a quarter of a second."""
DISCOVERY_SETTLED_S = 2.0
"""While somebody needs several providers: when no more were heard of for so long, there are no more. The DHT's answer takes
about a second."""
AUDIT_COUNT_MAX = 100
"""Canary jobs for each provider by one command: they are paid."""
AUDIT_PROVIDERS_MAX = 256
"""Named in one command; their ids are 16 KiB, a quarter of what a request to the local API may have."""
AUDITED_AT_ONCE_MAX = 8
"""Repetitions in the background; a further one is left out, so that audits never hold up a node."""


# --- looking at the market (node_market.py, wire/market_file.py, cli/market.py) ------------------------------------------
MARKET_WAIT_MAX_S = 50.0
"""A question that waits for a change is answered before the command line's patience of a minute ends."""


# --- prices and idle rules of a provider (policy/price.py, policy/idle.py) ---------------------------------------------
PRICE_TICK_S = 10.0
"""How often prices follow demand: twice within the life of a firm offer, so that a client's knowledge stays near."""
RATE_WINDOW_S = 10.0
"""Throughput is counted in spans as long: hundreds of small jobs, or a large one."""
RATE_KEPT_S = 600.0
"""For how long the best such span is announced; what a machine did earlier it may not do any more."""
IDLE_LOOK_S = 5.0
"""How often the machine is looked at while idle rules are set: sooner than its user finds it slow, for milliseconds of work."""
IDLE_CHANGE_MIN_S = 10.0
"""Between two changes of mind: each one is an announcement to everybody."""
IDLE_DETAIL_CHARS_MAX = 400
"""What a refusal may carry (512) less some room."""
SENSOR_TIMEOUT_S = 3.0
"""A program that is asked about the machine (loginctl, nvidia-smi, ioreg) answers within tenths of a second."""
SENSOR_OUTPUT_MAX = 256 * KIB
"""`ioreg -c IOHIDSystem` prints some ten KiB, `loginctl` a hundred bytes a session."""
MARKET_HOURS_MAX = 8760
"""A year: what [market] history_hours may be at most."""
MARKET_FILE_BYTES_MAX = 4096 * MIB
"""An exported file that is read: as much as 2 million announcements of 2 KB; it is read record by record."""
MARKET_RECORD_BYTES_MAX = 17 * KIB
"""One record of it: an announcement of DHT_VALUE_BYTES_MAX, and a time."""


# --- cocoon-node doctor (node_doctor.py, cli/doctor.py) ----------------------------------------------------------------
DOCTOR_PEERS_MAX = 5
"""Peers that are asked whether they know our announcement: enough to tell chance from a fault."""
DOCTOR_PROVIDERS_MAX = 64
"""Providers of a model that are looked at to find one among them."""
DOCTOR_QUESTION_S = 5.0
"""One peer, or one address: the time of a dial (DIAL_TIMEOUT_S), of which an answer takes a fraction."""
DOCTOR_RUN_S = 8.0
"""The node's own two runs of a made-up job, within the time of one check."""
DOCTOR_CHECK_S = 10.0
"""One check: a cold lookup and what follows from it."""
DOCTOR_IN_ALL_S = 60.0
"""All checks together: as long as a person waits for an answer."""
DOCTOR_IN_ALL_MAX_S = 600.0
"""What a person may ask for instead, on a slow way."""
DOCTOR_MODELS_MAX = 3
"""Models that are bought from: each takes up to a check's time."""
DOCTOR_DISK_LOW_BYTES = 1_000_000_000
DOCTOR_DISK_FULL_BYTES = 50_000_000
"""Databases grow by kilobytes an hour; a model to install has hundreds of megabytes."""
DOCTOR_PRICE_FACTOR = 2
"""A price above so many times the median of the others' is worth a word."""
DOCTOR_SPEED_FACTOR = 3
"""An announced time for an item that is wrong by more misleads those who choose by speed; less is the noise of a busy
machine."""
