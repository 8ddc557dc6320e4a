"""``mola-compose base=<file> experts=[<file>,<file>]``: one MoLA-Grad model of experts that were trained apart."""

from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from mola_lightning.cli.errors import command, setup_logging
from mola_lightning.cli.export import exported_table
from mola_lightning.core import ConfigError
from mola_lightning.core.errors import require
from mola_lightning.deployment import compose, export


def _job(cfg: DictConfig) -> None:
    setup_logging()
    for name in ("base", "experts"):
        if OmegaConf.is_missing(cfg, name):
            raise ConfigError(
                "which files? Give those of mola-export format=adapters: "
                "mola-compose base=base.safetensors experts=[a.safetensors,b.safetensors]"
            )
    output = Path(cfg.output)
    experts = [cfg.experts] if isinstance(cfg.experts, str) else list(cfg.experts)
    folders = {Path(file).resolve().parent for file in (cfg.base, *experts)}
    require(output.resolve() not in folders, f"output={output} would take the place of what is read; choose another")
    composed = compose(cfg.base, experts)
    composed.facts["license"] = cfg.license
    console = Console()
    console.print(exported_table(export(composed, output, "model")))
    console.print(f"written to {output}; mola-export run={output} makes networks of it", soft_wrap=True)


main = command(hydra.main(config_path="pkg://mola_lightning.conf", config_name="compose", version_base="1.3")(_job))

if __name__ == "__main__":
    main()
