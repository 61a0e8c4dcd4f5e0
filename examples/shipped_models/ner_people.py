"""Names of people for the NER grammar: Chinese, transliterated, Japanese, Korean and of minorities.

Well-known names, surname + given characters, and some characters drawn at random: the tagger must learn the form of a
name and how it sits in a sentence rather than a list.
"""

from __future__ import annotations

from examples.shipped_models.ner_choices import Choices


class People(Choices):
    """Draws people's names."""

    def surname(self) -> str:
        """A family name; the rare and the double ones are drawn more often than life would."""
        draw = self.rng.random()
        if draw < 0.72:
            words = self.people["surnames_common"]
            return words[int(len(words) * self.rng.random() ** 1.6)]
        return self.pick(self.people["surnames_rare" if draw < 0.95 else "surnames_double"])

    def given(self) -> str:
        """A given name of one or two characters."""
        kind = "given_male" if self.chance(0.5) else "given_female"
        size = 1 if self.chance(0.27) else 2
        result = "".join(self.pick(self.people[kind]) for _ in range(size))
        if self.chance(0.04) and size == 2:
            result = result[0] * 2
        if self.chance(0.12):
            place = self.rng.randrange(size)
            result = result[:place] + self.pick(self.common) + result[place + 1 :]
        return result

    def chinese(self) -> str:
        """A Chinese person's name."""
        draw = self.rng.random()
        if draw < 0.76:
            return self.surname() + self.given()
        if draw < 0.88:
            return self.pick(self.people["known"])
        if draw < 0.98:
            return self.pick(self.dictionary.chinese_names)
        return self.pick(self.people["minority"])

    def nickname(self) -> str:
        """小王, 老李, 阿明."""
        head = self.pick(["小", "老", "阿"])
        return head + (
            self.pick(self.people["given_male"]) if head == "阿" else self.pick(self.people["surnames_common"])
        )

    def person(self) -> str:
        """Any person's name."""
        return self.chinese() if self.chance(0.87) else self.foreign()

    def transliterated(self, least: int, most: int) -> str:
        """Characters that transcribe foreign names."""
        return "".join(self.pick(self.people["translit"]) for _ in range(self.rng.randint(least, most)))

    def foreign(self) -> str:
        """A foreign person's name, with or without the middle dot."""
        people, draw = self.people, self.rng.random()
        if draw < 0.2:
            return self.pick(people["foreign_known"])
        if draw < 0.36:
            return self.pick(self.dictionary.foreign_names)
        if draw < 0.56:
            return self.transliterated(2, 5)
        if draw < 0.68:
            return self.pick(people["foreign_family"] if self.chance(0.6) else people["foreign_given"])
        if draw < 0.9:
            first = self.pick(people["foreign_given"]) if self.chance(0.6) else self.transliterated(2, 4)
            last = self.pick(people["foreign_family"]) if self.chance(0.5) else self.transliterated(2, 5)
            middle = self.pick("ABCDEFGHJKLMRSTW") + "·" if self.chance(0.05) else ""
            if self.chance(0.08):
                middle = self.transliterated(1, 3) + "·"
            return f"{first}·{middle}{last}"
        if draw < 0.96:
            return self.pick(people["japanese_family"]) + self.pick(people["japanese_given"])
        return self.pick(people["surnames_common"][:40]) + self.pick(people["korean_given"])
