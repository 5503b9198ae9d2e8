"""Scripts without spaces: what counts as a word, which spaces count."""

import jiwer
import pytest

from speechssl.text.scripts import counted, spaceless, units


@pytest.mark.parametrize(
    "text, expected",
    [
        ("我爱 machine learning 你", "我 爱 machine learning 你"),
        ("ラーメンを食べる", "ラ ー メ ン を 食 べ る"),
        ("ดื่มน้ำ", "ดื่ ม น้ ำ"),
        ("ພາສາລາວ", "ພ າ ສ າ ລ າ ວ"),
        ("ភាសាខ្មែរ", "ភា សា ខ្មែ រ"),
        ("မြန်မာ", "မြ န် မာ"),
        ("བོད ཡིག", "བོ ད ཡི ག"),
        ("한국어 글", "한국어 글"),
        ("नमस्ते दुनिया", "नमस्ते दुनिया"),
        ("it's 5 o'clock", "it's 5 o'clock"),
        ("", ""),
    ],
)
def test_letters_with_their_marks_are_words_where_no_spaces_are_written(text, expected):
    assert units(text) == expected.split()
    assert "".join(units(text)) == text.replace(" ", "")


@pytest.mark.parametrize(
    "reference, hypothesis, wrong",
    [
        ("你好 世界", "你好世界", 0),
        ("你好世界", "你 好 世 界", 0),
        ("我 爱 open air 音乐", "我爱open air音乐", 0),
        ("我爱 open air", "我爱 openair", 1),
        ("ทำ งาน", "ทำงาน", 0),
        ("你好", "你坏", 1),
        ("ab cd", "abcd", 1),
    ],
)
def test_spaces_count_between_words_of_other_scripts_only(reference, hypothesis, wrong):
    out = jiwer.process_characters(*counted(reference, hypothesis).characters)
    assert out.substitutions + out.deletions + out.insertions == wrong


def test_the_reference_decides():
    assert counted("one two", "one 二 two").words == ("one two", "one 二 two")
    assert counted("一 two", "one two 二").words == ("一 two", "one two 二")
    assert counted("一二", "one two").words == ("一 二", "one two")


def test_scripts_are_named():
    assert spaceless("我爱カラオケ ok") == {"Han": 2, "Kana": 4}
    assert spaceless("한국어 ok") == {}
