"""What the embedded reading-comprehension set says and asks: relations and their phrasings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Relation:
    """One attribute: `{s}` stands for the subject, `{v}` for its value of the type `value`.

    Statements have no capital and no subject pronoun yet; the writer adds both.
    """

    value: str
    statements: tuple[str, ...]
    ask_value: tuple[str, ...]
    ask_subject: tuple[str, ...]


PERSON = (
    Relation(
        "town",
        ("{s} was born in {v}.", "{s} is a native of {v}.", "{v} is where {s} came into the world."),
        ("Where was {s} born?", "What is the birthplace of {s}?", "In which town did the life of {s} begin?"),
        ("Who was born in {v}?", "Who came into the world in {v}?", "Whose birthplace is {v}?"),
    ),
    Relation(
        "town",
        ("{s} now lives in {v}.", "{s} has settled in {v}.", "{v} has become the home of {s}."),
        ("Where does {s} live today?", "In which town did {s} settle?", "What is the present home of {s}?"),
        ("Who lives in {v} today?", "Which person settled in {v}?", "Who has made a home in {v}?"),
    ),
    Relation(
        "job",
        ("{s} works as a {v}.", "{s} earns a living as a {v}.", "by trade, {s} is a {v}."),
        ("What is the occupation of {s}?", "What does {s} do for a living?", "Which profession does {s} have?"),
        ("Who is the {v}?", "Who has the job of {v}?", "Which person is employed as a {v}?"),
    ),
    Relation(
        "year",
        ("{s} left school in {v}.", "in {v}, {s} finished school.", "{s} sat the last school examination in {v}."),
        ("When did {s} finish school?", "In what year did {s} leave school?", "Which year ended the school days of {s}?"),
        ("Who finished school in {v}?", "Whose last year of school was {v}?", "Who left school in {v}?"),
    ),
    Relation(
        "instrument",
        ("{s} plays the {v}.", "{s} is learning the {v}.", "the {v} is practised every evening by {s}."),
        ("Which instrument does {s} play?", "What does {s} make music on?", "What musical instrument is used by {s}?"),
        ("Who plays the {v}?", "Who makes music on the {v}?", "The {v} is the instrument of which person?"),
    ),
    Relation(
        "pet",
        ("{s} keeps {v}.", "{s} looks after {v}.", "{v} can be found at the house of {s}."),
        ("What pet does {s} own?", "What does {s} keep at home?", "What kind of pet belongs to {s}?"),
        ("Who owns {v}?", "Who has {v} at home?", "Who is the owner of {v}?"),
    ),
)  # fmt: skip

EXHIBIT = (
    Relation(
        "person",
        ("the {s} was made by {v}.", "{v} is the artist behind the {s}.", "the {s} came from the workshop of {v}."),
        ("Who created the {s}?", "Which artist made the {s}?", "Whose work is the {s}?"),
        ("What did {v} create?", "Which piece is the work of {v}?", "Which exhibit was made by {v}?"),
    ),
    Relation(
        "person",
        ("the {s} was donated by {v}.", "{v} gave the {s} to the museum.", "the {s} is a gift from {v}."),
        ("Who presented the {s} to the museum?", "From whom did the museum receive the {s}?", "Who was the donor of the {s}?"),
        ("What did {v} give to the museum?", "Which piece was presented by {v}?", "Which gift came from {v}?"),
    ),
    Relation(
        "material",
        ("the {s} is made of {v}.", "{v} was used for the {s}.", "the {s} consists of {v}."),
        ("What is the {s} made from?", "Which material was used for the {s}?", "Of what does the {s} consist?"),
        ("What is made from {v}?", "Which piece consists of {v}?", "For which exhibit was {v} chosen?"),
    ),
    Relation(
        "room",
        ("the {s} stands in {v}.", "{v} houses the {s}.", "the {s} is on display in {v}."),
        ("Where is the {s} shown?", "Where in the museum can visitors find the {s}?", "In which part of the building is the {s}?"),
        ("What can be seen in {v}?", "Which piece is shown in {v}?", "What do visitors find in {v}?"),
    ),
    Relation(
        "price",
        ("the {s} cost {v}.", "{v} were paid for the {s}.", "the {s} is valued at {v}."),
        ("How much is the {s} worth?", "What is the price of the {s}?", "What sum was paid for the {s}?"),
        ("What is worth {v}?", "Which piece has a price of {v}?", "Which exhibit is valued at {v}?"),
    ),
    Relation(
        "year",
        ("the {s} dates from {v}.", "the {s} was finished in {v}.", "in {v}, the {s} was completed."),
        ("When was the {s} completed?", "What is the year of origin of the {s}?", "From what year is the {s}?"),
        ("What was completed in {v}?", "Which piece is from the year {v}?", "Which exhibit was finished in {v}?"),
    ),
)  # fmt: skip

SHOP = (
    Relation(
        "person",
        ("{s} was founded by {v}.", "{v} set up {s}.", "{s} was started by {v}."),
        ("Who founded {s}?", "Who was the founder of {s}?", "By whom was {s} established?"),
        ("What did {v} found?", "Which business was established by {v}?", "Of which shop was {v} the founder?"),
    ),
    Relation(
        "goods",
        ("{s} sells {v}.", "{s} is known for {v}.", "customers buy {v} from {s}."),
        ("What can be bought at {s}?", "What does {s} offer to its customers?", "Which goods does {s} deal in?"),
        ("Which shop offers {v}?", "Where can {v} be bought?", "Which business deals in {v}?"),
    ),
    Relation(
        "street",
        ("{s} stands on {v}.", "{v} is the address of {s}.", "{s} does business from {v}."),
        ("Where is {s} located?", "What is the address of {s}?", "In which street is {s}?"),
        ("Which shop is located on {v}?", "Which business has its address on {v}?", "What can be found on {v}?"),
    ),
    Relation(
        "staff",
        ("{s} employs {v}.", "{v} work for {s}.", "{s} gives work to {v}."),
        ("How many people work at {s}?", "How large is the staff of {s}?", "How many are employed by {s}?"),
        ("Which shop has a staff of {v}?", "Which business employs {v}?", "Where do {v} work?"),
    ),
    Relation(
        "year",
        ("{s} opened its doors in {v}.", "in {v}, {s} served its first customer.", "{s} has been in business since {v}."),
        ("When did {s} open?", "Since when has {s} existed?", "In what year did {s} start trading?"),
        ("Which shop opened in {v}?", "Which business has existed since {v}?", "What started trading in {v}?"),
    ),
)  # fmt: skip

VOYAGE = (
    Relation(
        "person",
        ("the {s} was commanded by {v}.", "{v} was captain of the {s}.", "the {s} sailed under {v}."),
        ("Who commanded the {s}?", "What was the name of the captain of the {s}?", "Who was in charge of the {s}?"),
        ("Which ship did {v} command?", "Of which vessel was {v} in charge?", "What did {v} sail on as captain?"),
    ),
    Relation(
        "town",
        ("the {s} was bound for {v}.", "{v} was the destination of the {s}.", "the {s} set course for {v}."),
        ("Where was the {s} going?", "To which port did the {s} sail?", "What was the {s} heading for?"),
        ("Which ship was going to {v}?", "Which vessel headed for {v}?", "What sailed to {v}?"),
    ),
    Relation(
        "cargo",
        ("the {s} carried {v}.", "{v} filled the hold of the {s}.", "the {s} was loaded with {v}."),
        ("What was on board the {s}?", "What was the cargo of the {s}?", "Which freight did the {s} transport?"),
        ("Which ship transported {v}?", "Which vessel had a cargo of {v}?", "On board which ship was there {v}?"),
    ),
    Relation(
        "date",
        ("the {s} left port on {v}.", "on {v}, the {s} put to sea.", "the {s} departed on {v}."),
        ("When did the {s} set out?", "On what day did the {s} depart?", "What was the departure date of the {s}?"),
        ("Which ship set out on {v}?", "Which vessel departed on {v}?", "What left port on {v}?"),
    ),
    Relation(
        "span",
        ("the {s} was at sea for {v}.", "the {s} needed {v} for the voyage.", "{v} passed before the {s} arrived."),
        ("How long was the {s} under way?", "How much time did the {s} take?", "What was the length of the trip of the {s}?"),
        ("Which ship was under way for {v}?", "Which vessel took {v}?", "What arrived after {v}?"),
    ),
)  # fmt: skip

BOOK = (
    Relation(
        "person",
        ("{s} was written by {v}.", "{v} is the author of {s}.", "{s} came from the pen of {v}."),
        ("Who wrote {s}?", "Which author produced {s}?", "By which writer is {s}?"),
        ("What did {v} write?", "Which book has {v} as its author?", "Which work came from the writer {v}?"),
    ),
    Relation(
        "person",
        ("{s} was illustrated by {v}.", "{v} drew the pictures in {s}.", "{s} contains drawings by {v}."),
        ("Who illustrated {s}?", "Which artist provided pictures for {s}?", "Whose drawings appear in {s}?"),
        ("Which book did {v} illustrate?", "For which work did {v} provide pictures?", "Where do drawings by {v} appear?"),
    ),
    Relation(
        "topic",
        ("{s} tells of {v}.", "{v} is at the heart of {s}.", "{s} deals with {v}."),
        ("What is {s} about?", "What is the subject of {s}?", "Which theme does {s} treat?"),
        ("Which book is about {v}?", "Which work has {v} as its subject?", "Where can one read about {v}?"),
    ),
    Relation(
        "year",
        ("{s} was published in {v}.", "in {v}, {s} appeared in print.", "{s} reached the shops in {v}."),
        ("When did {s} come out?", "In what year was {s} published?", "What is the publication year of {s}?"),
        ("Which book came out in {v}?", "What was published in {v}?", "Which work appeared in {v}?"),
    ),
    Relation(
        "pages",
        ("{s} has {v}.", "{v} make up {s}.", "{s} runs to {v}."),
        ("How long is {s}?", "How many pages are there in {s}?", "What is the length of {s}?"),
        ("Which book is {v} long?", "Which work contains {v}?", "What has a length of {v}?"),
    ),
)  # fmt: skip

DOMAINS: dict[str, tuple[Relation, ...]] = {
    "person": PERSON,
    "exhibit": EXHIBIT,
    "shop": SHOP,
    "voyage": VOYAGE,
    "book": BOOK,
}
