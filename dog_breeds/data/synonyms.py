"""Match folder names of other photo collections with the breeds of Stanford Dogs."""

import re
import unicodedata
from collections.abc import Iterable

from dog_breeds.data.dataset import display_name

# Names that kennel clubs, the Oxford-IIIT Pet Dataset and Wikipedia use. Display names need no
# entry. Similar breeds are no synonyms: an American Bulldog is not a Bullmastiff.
SYNONYMS = {
    "african_hunting_dog": ("African Painted Dog", "Painted Wolf"),
    "american_staffordshire_terrier": ("AmStaff",),
    "appenzeller": ("Appenzeller Mountain Dog",),
    "bernese_mountain_dog": ("Berner Sennenhund", "Bernese"),
    "blenheim_spaniel": ("Blenheim",),
    "bluetick": ("Blue Tick Coonhound",),
    "boston_bull": ("Boston Bull Terrier",),
    "bouvier_des_flandres": ("Bouvier",),
    "brabancon_griffon": ("Griffon Bruxellois", "Petit Brabançon", "Griffon"),
    "brittany_spaniel": ("Epagneul Breton",),
    "bull_mastiff": ("Bull Mastiff",),
    "cardigan": ("Cardigan Corgi", "Welsh Corgi Cardigan"),
    "chow": ("Chow",),
    "cocker_spaniel": ("English Cocker Spaniel", "American Cocker Spaniel"),
    "collie": ("Rough Collie",),
    "doberman": ("Dobermann",),
    "english_springer": ("Springer Spaniel",),
    "entlebucher": ("Entlebucher Sennenhund",),
    "eskimo_dog": ("Canadian Inuit Dog",),
    "german_shepherd": ("German Shepherd Dog", "Alsatian"),
    "german_short_haired_pointer": ("German Shorthaired",),
    "great_pyrenees": ("Pyrenean Mountain Dog",),
    "greater_swiss_mountain_dog": ("Grosser Schweizer Sennenhund",),
    "groenendael": ("Belgian Groenendael", "Belgian Sheepdog"),
    "irish_setter": ("Irish Red Setter",),
    "japanese_spaniel": ("Japanese Chin", "Chin"),
    "labrador_retriever": ("Labrador",),
    "mexican_hairless": ("Xolo", "Mexican Hairless Dog"),
    "miniature_pinscher": ("Min Pin", "Zwergpinscher"),
    "old_english_sheepdog": ("Bobtail",),
    "pembroke": ("Pembroke Corgi", "Welsh Corgi Pembroke"),
    "saint_bernard": ("St. Bernard",),
    "scottish_deerhound": ("Deerhound",),
    "shetland_sheepdog": ("Sheltie",),
    "siberian_husky": ("Husky",),
    "silky_terrier": ("Australian Silky Terrier",),
    "soft_coated_wheaten_terrier": ("Wheaten Terrier",),
    "staffordshire_bullterrier": ("Staffordshire Bullterrier", "Staffie"),
    "vizsla": ("Hungarian Vizsla",),
    "west_highland_white_terrier": ("Westie", "West Highland Terrier"),
    "wire_haired_fox_terrier": ("Wirehaired Fox Terrier",),
}


def match_folders(folders: Iterable[str], classes: Iterable[str]) -> dict[str, str | None]:
    """Return the class that each folder name stands for, or None if no class has that name.

    A class can be named by its own name, its display name or a synonym, in any spelling:
    "St. Bernard", "st_bernard" and "n02109525-Saint_Bernard" are the same.
    """
    classes_by_name = {}
    for breed in classes:
        # The name of the class itself comes last, so that it wins over a synonym of another class
        for name in (*SYNONYMS.get(breed, ()), display_name(breed), breed):
            classes_by_name[_normalized(name)] = breed
    return {folder: classes_by_name.get(_normalized(folder)) for folder in folders}


def _normalized(name: str) -> str:
    """Return a name as lower-case letters and digits, without its WordNet number and accents."""
    # NFKD separates a letter from its accent, which isalnum then drops
    letters = unicodedata.normalize("NFKD", re.sub(r"^n\d{8}-", "", name)).casefold()
    return "".join(letter for letter in letters if letter.isalnum())
