"""OHIF in headless Chromium: connect to MONAI Label, run the model, and take a picture of what is overlaid.

Usage: ohif.py URL STUDY_UID PICTURE.png, with Selenium and Debian's chromium-driver.
"""

import io
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

SIZE = (1400, 900)
SECONDS = 240

# OHIF keeps its services here; the label map is a volume of the segmentation service
COUNT = """
const segmentation = window.services && window.services.segmentationService;
const volume = segmentation && segmentation.getLabelmapVolume('1');
if (!volume) return null;
const values = volume.voxelManager.getCompleteScalarDataArray();
const perSlice = new Array(volume.dimensions[2]).fill(0);
const size = volume.dimensions[0] * volume.dimensions[1];
for (let i = 0; i < values.length; i++) if (values[i]) perSlice[Math.floor(i / size)]++;
return perSlice;
"""


def browser() -> webdriver.Chrome:
    """A headless Chromium that can draw by WebGL without a graphics card."""
    options = webdriver.ChromeOptions()
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--window-size={SIZE[0]},{SIZE[1]}",
        "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist",
    ):  # fmt: skip
        options.add_argument(argument)
    options.binary_location = "/usr/bin/chromium"
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))


def main(url: str, study: str, picture: str) -> None:
    """Open the study, run the model and take the picture."""
    driver = browser()
    try:
        wait = WebDriverWait(driver, SECONDS)
        driver.get(f"{url}/ohif/monai-label?StudyInstanceUIDs={study}")
        field = wait.until(lambda d: d.find_element(By.ID, "monailabelServerURL"))
        wait.until(lambda d: d.find_elements(By.CSS_SELECTOR, "canvas"))
        time.sleep(10)
        driver.execute_script(
            "const set = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set;"
            "set.call(arguments[0], arguments[1]);"
            "arguments[0].dispatchEvent(new Event('input', {bubbles: true}));",
            field,
            f"{url}/",
        )
        before = shot(driver)
        field.find_element(By.XPATH, "./ancestor::tr//button").click()
        run = wait.until(lambda d: d.find_element(By.CSS_SELECTOR, "button[title='Run Segmentation']"))
        time.sleep(5)
        driver.execute_script("arguments[0].click()", run)
        wait.until(lambda d: sum(d.execute_script(COUNT) or [0]) > 0)
        time.sleep(5)
        after = shot(driver)
        print("voxels marked in each slice:", driver.execute_script(COUNT))
        after.quantize(128).save(picture, optimize=True)
        assert Path(picture).stat().st_size < 400_000
        assert (np.asarray(before) != np.asarray(after)).any()
    except Exception:
        Path(picture).with_suffix(".failed.png").write_bytes(driver.get_screenshot_as_png())
        for entry in driver.get_log("browser")[-30:]:
            print(entry["message"][:300], file=sys.stderr)
        raise
    finally:
        driver.quit()


def shot(driver: webdriver.Chrome) -> Image.Image:
    """The window as it is."""
    return Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")


if __name__ == "__main__":
    main(*sys.argv[1:])
