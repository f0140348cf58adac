import pytest

from segkd.common.student import STUDENT_FILE, student_dir, weights_file
from segkd.errors import SegkdError


def test_a_student_is_found_from_its_run_or_itself(tmp_path):
    folder = tmp_path / "run" / "student"
    folder.mkdir(parents=True)
    (folder / STUDENT_FILE).touch()
    assert student_dir(tmp_path / "run") == student_dir(folder) == folder
    assert weights_file(tmp_path / "run") == weights_file(folder / STUDENT_FILE) == folder / STUDENT_FILE


def test_what_is_no_student(tmp_path):
    with pytest.raises(SegkdError, match=r"there is no run .*absent'"):
        student_dir(tmp_path / "absent")
    with pytest.raises(SegkdError, match="not a finished run or a student"):
        student_dir(tmp_path)


@pytest.mark.parametrize("file", ["run/student/model.safetensors", "run/checkpoints/best.ckpt"])
def test_a_file_in_place_of_a_folder_names_the_one_around_it(tmp_path, file):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.touch()
    (tmp_path / "run/config.yaml").touch()
    around = path.parent if path.name == STUDENT_FILE else tmp_path / "run"
    with pytest.raises(SegkdError, match=rf"^{path} is a file, .*: name {around}$"):
        student_dir(path)
    (tmp_path / "lone.ckpt").touch()
    with pytest.raises(SegkdError, match=r"lone.ckpt is a file, but .* is expected$"):
        student_dir(tmp_path / "lone.ckpt")
