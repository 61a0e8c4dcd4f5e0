"""Questions and answers, as 问：…？答：… or as turns of a chat: everyday requests, small knowledge, sums, opposites."""

from __future__ import annotations

import random

from examples.shipped_models.phrase_bank import WORDLISTS

DIGITS = "零一二三四五六七八九"
MARKS = {"+": "加", "-": "减", "×": "乘"}
WEEKDAYS = "一二三四五六日"
SYSTEMS = ("你是一个助手。", "你是一个有用的助手。", "请用中文回答。", "You are a helpful assistant.")


def read_lines(*names: str) -> list[str]:
    """The lines of word lists, comments left out."""
    texts = [(WORDLISTS / name).read_text(encoding="utf-8") for name in names]
    return [line for text in texts for line in text.splitlines() if line and not line.startswith("#")]


def in_characters(number: int) -> str:
    """A number up to 99 in Chinese characters."""
    tens, ones = divmod(number, 10)
    if not tens:
        return DIGITS[ones]
    return ("" if tens == 1 else DIGITS[tens]) + "十" + (DIGITS[ones] if ones else "")


class Questions:
    """Draws a question with its answer from one random stream."""

    def __init__(self, stream: random.Random) -> None:
        self.random = stream
        intents = {line.split("|")[0]: line.split("|") for line in read_lines("intents.txt", "intents_more.txt")}
        answers = [line.partition("|") for line in read_lines("lm_answers.txt")]
        self.requests = [(intents[key], answer) for key, _, answer in answers]
        facts = [line.partition("=") for line in read_lines("lm_facts.txt")]
        self.facts = [(questions.split("|"), answer) for questions, _, answer in facts]
        self.opposites = [tuple(line.split()) for line in read_lines("antonyms.txt")]

    def text(self) -> str:
        """One question, its answer, and nothing else."""
        question, answer = self.pair()
        mark = "" if question[-1] in "？。！" else "？"
        return f"问：{question}{mark}答：{answer}"

    def chat(self) -> str:
        """A few turns as the platform's chat face writes them; the last answer follows the colon at once."""
        lines = [f"system: {self.random.choice(SYSTEMS)}"] if self.random.random() < 0.2 else []
        for _ in range(self.random.choice((0, 0, 0, 1, 1, 2))):
            question, answer = self.pair()
            lines += [f"user: {question}{self._mark()}", f"assistant: {answer}"]
        question, answer = self.pair()
        return "\n".join([*lines, f"user: {question}{self._mark()}", f"assistant:{answer}"])

    def _mark(self) -> str:
        return self.random.choice(("", "？", "?"))

    def pair(self) -> tuple[str, str]:
        draw = self.random.random()
        if draw < 0.46:
            return self._said(self.requests)
        if draw < 0.8:
            return self._said(self.facts)
        if draw < 0.9:
            return self.sum()
        if draw < 0.95:
            word, other = self.random.sample(self.random.choice(self.opposites), 2)
            return self.random.choice((f"“{word}”的反义词是什么", f"{word}的反义词是什么")), f"“{other}”。"
        return self.next_day()

    def sum(self) -> tuple[str, str]:
        """Addition, subtraction or multiplication of numbers up to nine, in digits or characters."""
        left, right, mark = self.random.randint(1, 9), self.random.randint(1, 9), self.random.choice("+-×+")
        if mark == "-" and right > left:
            left, right = right, left
        result = {"+": left + right, "-": left - right, "×": left * right}[mark]
        if self.random.random() < 0.5:
            return f"{left}{MARKS[mark]}{right}等于几", f"{result}。"
        return f"{in_characters(left)}{MARKS[mark]}{in_characters(right)}等于几", f"{in_characters(result)}。"

    def next_day(self) -> tuple[str, str]:
        today, ahead = self.random.randrange(7), self.random.randint(1, 2)
        word = ("", "明天", "后天")[ahead]
        return f"今天是星期{WEEKDAYS[today]}，{word}是星期几", f"星期{WEEKDAYS[(today + ahead) % 7]}。"

    def _said(self, known: list[tuple[list[str], str]]) -> tuple[str, str]:
        questions, answer = self.random.choice(known)
        return self.random.choice(questions), answer
