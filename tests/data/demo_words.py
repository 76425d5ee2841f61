"""The words of the embedded reading-comprehension set; its two halves share no name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Names:
    """The parts from which one half of the set makes its proper names."""

    women: tuple[str, ...]
    men: tuple[str, ...]
    surnames: tuple[str, ...]
    places: tuple[str, ...]
    adjectives: tuple[str, ...]
    nouns: tuple[str, ...]


TRAIN_NAMES = Names(
    women=tuple(
        "Ada Agnes Alice Amelia Beatrice Bridget Camilla Cecilia Charlotte Clara Daphne Diana "
        "Dorothy Edith Eleanor Elsa Emma Esther Eva Flora Frances Greta Hannah Harriet Helen Ida "
        "Irene Isabel Jane Judith Julia Laura Lucy Margaret Martha Matilda Naomi Nina Olivia "
        "Paula Rachel Rosa Ruth Sarah Sofia Susan Teresa Vera Violet Winifred".split()
    ),
    men=tuple(
        "Adam Albert Alfred Andrew Arthur Benjamin Bernard Charles Conrad Daniel David Dennis "
        "Edgar Edmund Edward Ernest Felix Francis Frederick George Gilbert Gregory Harold Henry "
        "Hugo Isaac Jacob James Jonas Joseph Julian Laurence Leonard Louis Martin Matthew Michael "
        "Nathan Oliver Oscar Patrick Peter Philip Ralph Richard Robert Samuel Simon Theodore "
        "Victor".split()
    ),
    surnames=tuple(
        "Abbott Adler Baker Barlow Becker Bishop Blake Bowen Brandt Burke Calder Carter Chapman "
        "Clarke Cole Conway Cooper Crane Dalton Dawson Doyle Drake Duncan Ellis Farrell Fischer "
        "Fleming Foster Garner Gibson Grant Hale Hansen Harper Hayes Hudson Jansen Keller Kirby "
        "Lambert Lange Larsen Lowell Marsh Mason Mercer Meyer Miller Nolan Norton Owens Palmer "
        "Parker Pearson Perry Porter Quinn Reeves Rhodes Rivera Rossi Sawyer Schmidt Shaw Silva "
        "Spencer Stone Sutton Tanner Thorne Tucker Turner Vogel Wagner Walsh Warner Weaver Webb "
        "Wheeler Young".split()
    ),
    places=tuple(
        "Alder Amber Apple Ash Barn Bell Birch Black Bridge Bright Brook Castle Cedar Clay Cliff "
        "Copper Corn Cross Deer East Elm Fern Fox Glen Gold Green Hazel High Holly Iron King "
        "Lake Lamb".split()
    ),
    adjectives=tuple(
        "Amber Ancient Broken Crimson Distant Eastern Faithful Frozen Gentle Golden Hidden Hollow "
        "Humble Ivory Lonely Lucky Midnight Narrow Northern Painted Patient Proud Restless Royal "
        "Sacred Secret Silent Sleeping Stolen Sudden Velvet Wandering White Wild".split()
    ),
    nouns=tuple(
        "Anchor Arrow Bell Bridge Candle Castle Compass Crow Crown Dove Falcon Feather Forest "
        "Garden Harbour Horizon Horse Island Journey Key Lantern Letter Lion Meadow Mirror Moon "
        "Mountain Orchard Raven River Rose Shadow Spring Star Storm Sword Tower Whale".split()
    ),
)

TEST_NAMES = Names(
    women=tuple(
        "Abigail Anna Barbara Caroline Catherine Elizabeth Florence Grace Heidi Ingrid Joan Lena "
        "Lydia Maria Mary Molly Nora Phoebe Rebecca Sylvia Ursula Victoria".split()
    ),
    men=tuple(
        "Alan Anton Brian Carl Christopher Douglas Eric Gerald Harvey Ivan Jack Karl Kenneth "
        "Luke Marcus Nicholas Otto Paul Roger Stephen Thomas Walter".split()
    ),
    surnames=tuple(
        "Archer Barrett Bennett Brennan Carver Collins Craig Decker Ferguson Fletcher Gardner "
        "Graham Hammond Hoffman Howard Jensen Kramer Lawson Lindberg Maddox Mitchell Murphy "
        "Newman Osborne Petersen Preston Ramsey Richter Russell Sanders Sherman Tyler Vance "
        "Watson Winters Wright".split()
    ),
    places=tuple("Maple Marsh Mill Moss Oak Pine Red River Rose Salt Silver Stone Swan".split()),
    adjectives=tuple(
        "Brave Burning Clever Dancing Emerald Empty Endless Forgotten Grey Happy Quiet Scarlet "
        "Southern Swift Twisted Western".split()
    ),
    nouns=tuple(
        "Bear Bird Cathedral Clock Desert Dragon Eagle Fountain Gate Hunter Ocean Palace Pearl "
        "Road Sailor Valley Wind Wolf".split()
    ),
)

PLACE_ENDINGS = tuple(
    "bury dale field ford gate ham haven land mere mouth ridge stead ton view ville wood".split()
)

WORDS: dict[str, tuple[str, ...]] = {
    "job": (
        "baker", "bookbinder", "bridge engineer", "butcher", "carpenter", "chemist",
        "church organist", "clock repairer", "court reporter", "dentist", "dance teacher",
        "farm doctor", "fire officer", "glass painter", "harbour pilot", "journalist", "judge",
        "language teacher", "locksmith", "map maker", "midwife", "night nurse", "piano tuner",
        "plumber", "post office clerk", "school librarian", "ship broker", "stone mason", "tailor",
        "tax inspector", "train driver", "wine merchant",
    ),
    "instrument": (
        "accordion", "bass drum", "bassoon", "cello", "church organ", "clarinet", "double bass",
        "electric guitar", "flute", "french horn", "harp", "mandolin", "oboe", "piano",
        "saxophone", "trombone", "trumpet", "violin",
    ),
    "pet": (
        "a blind donkey", "a brown rabbit", "a grey parrot", "a lame goat", "a pair of owls",
        "a shy greyhound", "a spotted pony", "a tame fox", "a three-legged cat", "an old tortoise",
        "five noisy geese", "four white mice", "six racing pigeons", "some tropical fish",
        "two black swans", "two hunting dogs",
    ),
    "material": (
        "blue glass", "bronze", "carved ivory", "cherry wood", "copper and leather", "green jade",
        "iron", "oak and brass", "painted clay", "polished granite", "porcelain", "pure silver",
        "red marble", "silk", "walnut", "whale bone",
    ),
    "room": (
        "the attic", "the blue gallery", "the cellar", "the coin room", "the east wing",
        "the entrance hall", "the garden pavilion", "the glass corridor", "the long gallery",
        "the map room", "the old chapel", "the reading room", "the round tower", "the upper floor",
        "the west wing", "the winter hall",
    ),
    "goods": (
        "bicycles", "brass buttons", "cheese and honey", "children's toys", "fishing nets",
        "fresh flowers", "garden tools", "hand-made shoes", "kitchen knives", "leather bags",
        "musical scores", "old coins", "paper and ink", "ropes and sails", "second-hand books",
        "spices", "tea and coffee", "wedding dresses", "wool coats", "wrist watches",
    ),
    "cargo": (
        "barley", "building timber", "cotton", "dried fish", "farm machinery", "frozen meat",
        "glass bottles", "live cattle", "mail and parcels", "olive oil", "raw sugar", "roof tiles",
        "salt", "sheep's wool", "steel pipes", "tropical fruit",
    ),
    "topic": (
        "a bank robbery", "a family feud", "a lost city", "a miners' strike", "a prison escape",
        "a royal wedding", "a shipwreck", "a village school", "an unsolved murder",
        "arctic exploration", "bird migration", "deep sea diving", "life in a monastery",
        "mountain climbing", "the history of chess", "the silk trade", "the spread of a plague",
        "the rivalry of two chefs",
    ),
    "month": (
        "January", "February", "March", "April", "May", "June", "July", "August", "September",
        "October", "November", "December",
    ),
    "object": (
        "Bowl", "Cabinet", "Chair", "Chalice", "Chest", "Cup", "Globe", "Harness", "Helmet",
        "Mask", "Panel", "Plate", "Statue", "Table", "Urn", "Vase",
    ),
    "street": ("Avenue", "Court", "Lane", "Road", "Square", "Street", "Terrace", "Walk"),
}  # fmt: skip

INTRODUCTIONS: dict[str, tuple[str, ...]] = {
    "person": (
        "A letter from {place} gives news of old neighbours.",
        "The newspaper of {place} describes several of its readers.",
        "People met at the spring fair in {place}.",
    ),
    "exhibit": (
        "The museum of {place} has printed a new guide.",
        "Visitors come to {place} to see a famous collection.",
        "The treasures of {place} were listed again last year.",
    ),
    "shop": (
        "Trade in {place} has never been better.",
        "The merchants of {place} know one another well.",
        "A walk through {place} leads past many windows.",
    ),
    "voyage": (
        "The harbour office of {place} keeps a careful log.",
        "Crowds watched from the quay at {place}.",
        "Several vessels were seen near {place}.",
    ),
    "book": (
        "The library of {place} bought some new volumes.",
        "A reading circle meets every week in {place}.",
        "Critics gathered in {place} to talk about literature.",
    ),
}

TITLES: dict[str, str] = {
    "person": "People of {place}",
    "exhibit": "Museum of {place}",
    "shop": "Shops of {place}",
    "voyage": "Port of {place}",
    "book": "Library of {place}",
}
