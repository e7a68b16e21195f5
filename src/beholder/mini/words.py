"""What writings say: common words, numbers, invented words and codes of one to six characters."""

import random

WORDS = tuple(
    """
    act add age ago aid aim air all and ant any ape arm art ask ate bad bag bar bat bed bee beg big
    bin bit box boy bus but buy cab can cap car cat cow cry cup cut dad day den dig dog dot dry due
    ear eat egg end eye fan far fat few fit fix fly fog for fox fun fur gas get god gun guy hat hen
    her him hip his hit hot how hub hut ice ink jam jar jet job joy key kid kit lab lap law lay leg
    let lid lip log lot low mad man map mat may men mix mom mud nap net new nor not now nut oak odd
    off oil old one our out owl own pan pay pea pen pet pie pig pin pit pop pot put rat raw red rib
    rid rod row rug run sad saw say sea see set she shy sit six sky son sun tap tax tea ten the tie
    tin tip toe ton top toy try two use van wax way web wet who why win yes yet you zip zoo able
    army away baby back bake ball band bank base bath bear bell best bike bird blue boat body bold
    bone book boot born bowl burn busy cafe cake call calm camp card care case cash chef city clay
    club coal coat code coin cold cook cool copy corn cost crew dark data date deal deer desk dish
    dive door down draw drum duck dust east easy echo exit face fact fair fall farm fast file film
    fire fish five flag flat food foot fork four free frog fuel full game gate gift girl give glad
    goal goat gold golf good grow hair half hall hand hard help hero high hill hold home hope horn
    hour huge idea iron item jazz join jump just keep kind king kite lake lamp land last leaf left
    life lift like line lion list live lock long look lost loud love luck main make mall many mark
    menu milk mind mint moon more move much name near news next nice nine north note oven over pack
    page park part path peak pink plan play plum pool post pull push quit quiz race rain read real
    rest rice ride ring road rock roof room rope rose rule safe sail sale salt sand save seat seed
    sell ship shoe shop show side sign sing size skin slow snow soap soft song soup spot star stay
    stop sure swim tail take talk tall taxi team tent test text time tiny tool tour town tree trip
    true turn type vest view wait walk wall warm wash wave west what wind wine wing wolf wood word
    work yard year zero zone actor apple beach bench black board brain bread brick bring brown brush
    cabin candy chair chalk chess chief child class clean clock cloud coast cream crown dance dream
    dress drink drive eagle earth eight enter field first flame floor fresh fruit glass grape grass
    green group guest happy heart honey horse hotel house image juice knife label large laugh lemon
    level light lucky lunch magic maple maybe metal metro model money month mouse movie music never
    night novel ocean olive onion open order paint paper party peace phone photo piano pilot pizza
    plane plant plate point power price prize queen quick quiet radio ready right river robot round
    salad scale seven shark sheep shirt smile smoke solar sound south space speed spoon sport stage
    stamp stone store storm story street sugar sweet table tiger toast today tower track train truck
    uncle under video visit voice water whale wheat wheel white world young zebra animal answer
    autumn banana basket battle bottle bridge butter button camera castle cheese cherry church
    circle coffee corner cotton danger desert dinner doctor dragon engine family father finger
    flower forest friend garden ginger guitar hammer island jacket kitten ladder letter market
    mirror monkey mother museum nature number office orange parrot pencil pepper planet pocket
    police potato public rabbit rocket saddle school season secret silver simple sister soccer
    spring square summer sunset ticket tomato travel turtle violet window winter wonder yellow
    """.split()
)
WORDS = tuple(word for word in WORDS if 2 <= len(word) <= 6)
# Letters and digits that cannot be taken for each other.
CODE = "ABCDEFGHJKMNPQRSTUVWXYZ23456789"
ALIKE = set("COSUVWXZ")  # a word of these alone reads the same in every case
VOWELS, CONSONANTS = "AEIOU", "BCDFGHJKLMNPRSTVWXZ"


def pick_text(rng: random.Random) -> str:
    """One to six characters: a word, a number, an invented word, or a code."""
    kind = rng.random()
    if kind < 0.36:
        return in_case(rng.choice(WORDS).upper(), rng)
    if kind < 0.56:
        return "".join(rng.choice("0123456789") for _ in range(rng.choice((1, 1, 2, 2, 3, 3, 4, 4, 5, 6))))
    if kind < 0.72:
        length, start = rng.choice((2, 3, 4, 4, 5, 5, 6)), rng.randint(0, 1)
        letters = (rng.choice((VOWELS, CONSONANTS)[(place + start) % 2]) for place in range(length))
        return in_case("".join(letters), rng)
    return "".join(rng.choice(CODE) for _ in range(rng.choice((1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6))))


def in_case(word: str, rng: random.Random) -> str:
    """Mostly upper case; sometimes as a title or in lower case."""
    kind = rng.random()
    if kind < 0.7 or set(word) <= ALIKE:
        return word
    return word.title() if kind < 0.86 else word.lower()
