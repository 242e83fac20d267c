"""Reinforcement learning from human feedback for image generators: the whole loop in one small package.

A person's choices between pictures become a reward model, and a loop tunes any diffusers pipeline against it:

    pretrain (or bring a pipeline) → generate → label → train-reward → finetune → evaluate

Three ideas keep it small. (1) Any pipeline is one `Generator`: its own ``__call__`` runs, we stand at its scheduler.
(2) A network's output is read once, into ``Prediction(x0, eps)``; a step of sampling is a ``Gaussian(mean, std)``.
(3) After scoring, diffusion RL is supervised learning: rollout → advantages → examples → loss.

Reading order: `finetune.learn` (the body of the loop) and `tuning` (the rounds of a run), `algorithms.nft` (an
algorithm), `math.path`, `math.objectives` (its mathematics), `generators.pipeline` and `generators.scheduler` (any
pipeline), `policy` (an update), then the stages `pretrain`, `generate`, `label`, `reward_models.train` and `evaluate`.
`cli` is the one roof over this package and `reward_models`, which rests on it.
"""
