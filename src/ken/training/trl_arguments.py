"""Our settings in TRL's words."""

from __future__ import annotations

from trl import GRPOConfig

from ken.training.rl_config import RLConfig


def trl_arguments(config: RLConfig, out: str, *, cpu: bool, processes: int = 1) -> GRPOConfig:
    """TRL's settings for `config`, in rollouts; TRL's own sampling, rewards and prompts are not used."""
    rows = config.units * config.group_size // processes
    per_update = max(1, rows // config.minibatches)
    micro = min(config.micro_batch or per_update, per_update)
    accumulation = max(1, per_update // micro)
    # TRL insists on groups of at least two that divide the batch; it only counts placeholders with them.
    whole = micro * accumulation * config.minibatches * processes
    return GRPOConfig(
        output_dir=out,
        max_steps=config.steps * config.updates,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulation,
        steps_per_generation=accumulation * config.minibatches,
        num_iterations=config.epochs,
        num_generations=next((n for n in range(2, whole + 1) if whole % n == 0), 2),
        max_completion_length=config.sampling.max_tokens,
        temperature=config.sampling.temperature,
        beta=0.0,
        use_bias_correction_kl=False,  # k3 as in the papers' code; TRL's correction gives it another gradient
        loss_type=config.loss,
        epsilon=config.clip_low,
        epsilon_high=config.clip_high,
        delta=config.dual_clip,
        entropy_coef=config.entropy_bonus,
        learning_rate=config.lr,
        lr_scheduler_type={"constant": "constant_with_warmup"}.get(config.schedule, config.schedule),
        warmup_steps=config.warmup_steps,
        max_grad_norm=config.grad_clip,
        weight_decay=config.weight_decay,
        seed=config.seed % 2**31,
        save_strategy="steps" if config.save_every else "no",
        save_steps=max(1, config.save_every * config.updates),
        save_total_limit=2,
        logging_steps=config.updates,
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=True,
        bf16=config.bf16,
        gradient_checkpointing=config.gradient_checkpointing,
        use_cpu=cpu,
        use_vllm=config.vllm,
        vllm_mode="colocate",
        vllm_gpu_memory_utilization=config.vllm_memory,
        vllm_importance_sampling_mode="token_truncate",
        vllm_importance_sampling_clip_min=None,
        vllm_importance_sampling_clip_max=2.0,
        ignore_data_skip=True,
        dataloader_pin_memory=not cpu,
        remove_unused_columns=False,
    )
