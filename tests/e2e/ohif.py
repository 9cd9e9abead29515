"""OHIF in headless Chromium: connect to MONAI Label, run the model, and take a picture of what is overlaid.

Usage: ohif.py URL STUDY_UID SERIES_UID SLICE PICTURE.png, with Selenium and Debian's chromium-driver.
"""

import base64
import io
import sys
import time
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

SIZE = (1400, 900)
SECONDS = 240

# OHIF keeps its services here; the label map is a volume of the segmentation service, once a model has run
COUNT = """
try {
  const volume = window.services.segmentationService.getLabelmapVolume('1');
  const values = volume.voxelManager.getCompleteScalarDataArray();
  const perSlice = new Array(volume.dimensions[2]).fill(0);
  const size = volume.dimensions[0] * volume.dimensions[1];
  for (let i = 0; i < values.length; i++) if (values[i]) perSlice[Math.floor(i / size)]++;
  return perSlice;
} catch (error) { return []; }
"""

# a slice of the label map; which way scrolling goes is found by trying
SHOW = """
const services = window.services, best = arguments[0];
const grid = services.viewportGridService;
const viewport = services.cornerstoneViewportService.getCornerstoneViewport(grid.getActiveViewportId());
const volume = services.segmentationService.getLabelmapVolume('1');
const shown = () => Math.round(volume.imageData.worldToIndex(viewport.getCamera().focalPoint)[2]);
// the panel draws a colour at random, which may be that of the scan
services.segmentationService.setSegmentColor(grid.getActiveViewportId(), '1', 1, [255, 220, 0, 255]);
const before = shown();
viewport.scroll(1);
viewport.scroll((shown() > before ? 1 : -1) * (best - shown()));
viewport.render();
return [best, shown()];
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


def main(url: str, study: str, series: str, number: int, picture: str) -> None:
    """Open a series, run the model and take the picture of a slice (from 0) in which something is found."""
    driver = browser()
    try:
        wait = WebDriverWait(driver, SECONDS)
        driver.get(f"{url}/ohif/monai-label?StudyInstanceUIDs={study}&SeriesInstanceUIDs={series}")
        wait.until(lambda d: d.find_elements(By.TAG_NAME, "canvas") and d.find_elements(By.ID, "monailabelServerURL"))
        time.sleep(5)
        for button in driver.find_elements(By.XPATH, "//button[contains(., 'Confirm and Hide')]"):
            driver.execute_script("arguments[0].click()", button)
        field = driver.find_element(By.ID, "monailabelServerURL")
        # as typed: the panel takes the address when the field loses the focus
        driver.execute_script(
            "arguments[0].value = arguments[1];"
            "arguments[0].dispatchEvent(new FocusEvent('focusout', {bubbles: true}));",
            field,
            f"{url}/",
        )
        time.sleep(1)
        driver.execute_script("arguments[0].click()", field.find_element(By.XPATH, "./ancestor::tr//button"))
        run = wait.until(lambda d: d.find_element(By.CSS_SELECTOR, "button[title='Run Segmentation']"))
        time.sleep(5)
        assert sum(driver.execute_script(COUNT)) == 0
        driver.execute_script("arguments[0].click()", run)
        wait.until(lambda d: sum(d.execute_script(COUNT)) > 0)
        driver.execute_script("window.commandsManager.runCommand('toggleOneUp')")
        time.sleep(3)
        counts = driver.execute_script(COUNT)
        assert counts[number] > 0, counts
        wanted, shown = driver.execute_script(SHOW, number)
        assert wanted == shown, f"slice {shown} is shown, not {wanted}"
        time.sleep(3)
        screen(driver).save(picture, optimize=True)
        print("OHIF: voxels marked in each slice:", counts, flush=True)
        assert Path(picture).stat().st_size < 400_000
    except Exception:
        screen(driver).save(Path(picture).with_suffix(".failed.png"))
        raise
    finally:
        driver.quit()


def screen(driver: webdriver.Chrome) -> Image.Image:
    """The window as it is; not by way of Selenium, which gives a busy page ten seconds."""
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
    return Image.open(io.BytesIO(base64.b64decode(shot))).convert("RGB")


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]), sys.argv[5])
