"""Plain facts, in three tiers of how well known they are: (question, answers that are right)."""

CAPITALS = (
    "France:Paris Germany:Berlin Italy:Rome Spain:Madrid Japan:Tokyo Russia:Moscow China:Beijing Egypt:Cairo Greece:Athens England:London Austria:Vienna Portugal:Lisbon Ireland:Dublin Poland:Warsaw Sweden:Stockholm",
    "Norway:Oslo Finland:Helsinki Denmark:Copenhagen Hungary:Budapest Cuba:Havana Kenya:Nairobi Peru:Lima Argentina:Buenos_Aires Canada:Ottawa Australia:Canberra Turkey:Ankara India:New_Delhi Belgium:Brussels Romania:Bucharest Iraq:Baghdad",
    "Mongolia:Ulaanbaatar Nepal:Kathmandu Ghana:Accra Latvia:Riga Estonia:Tallinn Uruguay:Montevideo Ecuador:Quito Senegal:Dakar Zambia:Lusaka Bulgaria:Sofia Iceland:Reykjavik Jordan:Amman Ethiopia:Addis_Ababa Laos:Vientiane Fiji:Suva",
)
SYMBOLS = (
    "oxygen:O hydrogen:H carbon:C gold:Au iron:Fe silver:Ag nitrogen:N",
    "helium:He sodium:Na copper:Cu calcium:Ca lead:Pb zinc:Zn neon:Ne",
    "potassium:K tin:Sn tungsten:W mercury:Hg magnesium:Mg lithium:Li nickel:Ni",
)
AUTHORS = (
    "Romeo_and_Juliet:Shakespeare Hamlet:Shakespeare Pride_and_Prejudice:Austen Oliver_Twist:Dickens",
    "War_and_Peace:Tolstoy Don_Quixote:Cervantes The_Odyssey:Homer Moby-Dick:Melville Frankenstein:Shelley Dracula:Stoker",
    "Madame_Bovary:Flaubert The_Trial:Kafka Faust:Goethe Middlemarch:Eliot The_Cherry_Orchard:Chekhov Candide:Voltaire",
)
OPPOSITES = (
    "hot:cold big:small up:down day:night left:right happy:sad fast:slow open:closed new:old light:dark",
    "early:late full:empty buy:sell love:hate win:lose rich:poor strong:weak inside:outside true:false noisy:quiet",
    "ancient:modern generous:mean|selfish|stingy expand:contract|shrink maximum:minimum victory:defeat import:export rough:smooth arrival:departure permanent:temporary ascend:descend",
)
YOUNG = (
    "dog:puppy cat:kitten cow:calf sheep:lamb",
    "horse:foal duck:duckling lion:cub frog:tadpole",
    "kangaroo:joey swan:cygnet eagle:eaglet goat:kid",
)
OTHERS = (
    (
        "How many days are there in a week?:7|seven",
        "How many legs does a spider have?:8|eight",
        "How many months are there in a year?:12|twelve",
        "Which planet do we live on?:Earth",
        "What do bees make?:honey",
        "How many minutes are there in an hour?:60|sixty",
        "What is frozen water called?:ice",
        "Which animal is called the king of the jungle?:lion",
        "What colour do blue and yellow make together?:green",
    ),
    (
        "Which planet is the largest in the solar system?:Jupiter",
        "Which planet is known as the red planet?:Mars",
        "What is the largest ocean?:Pacific",
        "Who painted the Mona Lisa?:Leonardo|Vinci",
        "At how many degrees Celsius does water boil at sea level?:100|hundred",
        "What is the longest river of Africa?:Nile",
        "How many sides does a hexagon have?:6|six",
        "Which gas do plants take from the air?:carbon dioxide|CO2",
        "Which organ pumps blood through the body?:heart",
    ),
    (
        "Which planet is the closest to the sun?:Mercury",
        "Who discovered penicillin?:Fleming",
        "What is the smallest prime number?:2|two",
        "What is the square root of 169?:13|thirteen",
        "Which metal is liquid at room temperature?:mercury",
        "In which year did the Second World War end?:1945",
        "Who developed the theory of general relativity?:Einstein",
        "What is the hardest natural mineral?:diamond",
        "Which language is spoken in Brazil?:Portuguese",
    ),
)


def pairs(text: str) -> list[tuple[str, list[str]]]:
    split = [one.replace("_", " ").partition(":") for one in text.split()]
    return [(key, answers.split("|")) for key, _, answers in split]


def list_facts(level: int) -> list[tuple[str, list[str]]]:
    """(question, right answers) of a level, 1 to 3."""
    n = level - 1
    facts = [(f"What is the capital of {country}?", right) for country, right in pairs(CAPITALS[n])]
    facts += [(f"What is the chemical symbol of {element}?", right) for element, right in pairs(SYMBOLS[n])]
    facts += [(f"Who wrote '{title}'?", right) for title, right in pairs(AUTHORS[n])]
    facts += [(f"What is the opposite of '{word}'?", right) for word, right in pairs(OPPOSITES[n])]
    facts += [(f"What is a young {animal} called?", right) for animal, right in pairs(YOUNG[n])]
    facts += [(question + "?", right.split("|")) for question, right in (one.split("?:") for one in OTHERS[n])]
    return facts
