"""Where public implementations err, which preset does as they do, which one is right, and the tests that hold both to it.

`conformance.py` writes this as a table; `test_errata.py` holds it to the presets and tests that there are.
"""

from typing import NamedTuple


class Erratum(NamedTuple):
    """`compat` and `exact` are presets with their options; tests are FILE::NAME without "test_" and ".py"."""

    where: str
    what: str
    compat: str
    exact: str
    compat_tests: tuple[str, ...]
    exact_tests: tuple[str, ...]


DIFFUSERS_MULTISTEP = "references::dpm_solver_multistep_equals_diffusers"
ORDER_LAW = "solver_laws::every_preset_converges_at_its_declared_order"
POINTS_OF_THREE = "dpm_solver::half_a_second_derivative_costs_one_order"

ERRATA = (
    Erratum(
        "dpm_solver_pytorch, diffusers, k-diffusion, diff-sampler: 3M",
        "half the second derivative: order 2",
        "dpmpp-3m-compat, dpm-solver-3m third=half, dpmpp-3m-sde-compat",
        "dpmpp-3m, dpm-solver-3m, dpmpp-3m-sde",
        (DIFFUSERS_MULTISTEP, "references::tables_equal_those_of_k_diffusion", POINTS_OF_THREE),
        (POINTS_OF_THREE, "dpm_solver::the_drift_of_the_sde_variants_has_their_order"),
    ),
    Erratum(
        "diffusers: sde-dpmsolver++ of order 3",
        "a sign: drift of order 1",
        "dpmpp-3m-sde third=slip",
        "dpmpp-3m-sde",
        (DIFFUSERS_MULTISTEP, "dpm_solver::the_drift_of_the_sde_variants_has_their_order"),
        ("dpm_solver::the_drift_of_the_sde_variants_has_their_order",),
    ),
    Erratum(
        "diffusers: stochastic singlestep",
        "noise drawn anew for every state: weak order 1; in heun's third order the same sign: none",
        "dpmpp-singlestep-sde-compat",
        "dpmpp-singlestep-sde",
        ("references::stochastic_singlestep_equals_diffusers",),
        ("single_step::stages_on_the_grid_have_weak_order_two_with_itos_noise_and_the_slip_of_diffusers_never_converges",),
    ),
    Erratum(
        "diffusers: UniPC bh1 to sigma 0",
        "NaN",
        "",
        "unipc-2 moment=bh1",
        ("references::unipc_bh1_has_an_end_at_sigma_zero_where_diffusers_has_none",),
        ("solver_laws::the_two_point_formulas_of_unipc_keep_order_two",),
    ),
    Erratum(
        "uni_pc.py: vary_coeff",
        "the corrector's loops stop early: order 1",
        "unipc-3-vary-compat",
        "unipc-3 moment=exact",
        ("unipc::vary_is_the_corrector_of_uni_pc_and_its_predictor_is_exact",),
        ("unipc::varying_coefficients_have_full_order_only_when_every_row_acts",),
    ),
    Erratum(
        "diff-sampler, ComfyUI: ipndm_v of three and four points",
        "parentheses and a sign: order 1",
        "ipndm-v-compat",
        "ipndm-v",
        ("deis::the_public_ipndm_v_is_its_loop", "deis::the_public_ipndm_v_is_wrong_at_four_points_even_where_steps_are_uniform"),
        ("deis::the_public_ipndm_v_loses_its_order", "deis::ipndm_v_meets_every_moment_and_the_public_one_does_not"),
    ),
    Erratum(
        "SEEDS: noise of the second order",
        "paired backwards: order 1 unless c2 = 1/2",
        "seeds-2-compat",
        "seeds-2",
        ("single_step::seeds_as_published_in_code_pairs_the_noises_the_wrong_way_round",),
        ("single_step::seeds_as_published_in_code_pairs_the_noises_the_wrong_way_round",),
    ),
    Erratum(
        "SEEDS: third order",
        "phi_2 mistyped (data), noises swapped and misscaled (noise form): order 1, at c2 = 1/2 in the noise form",
        "seeds-3-compat, seeds-3-noise-compat",
        "seeds-3, seeds-3-noise",
        ("single_step::the_third_seeds_is_its_loop_as_in_the_paper_and_as_in_its_code",),
        ("single_step::the_third_seeds_has_order_two_and_its_code_order_one",),
    ),
    Erratum(
        "RES4LYF: res_3m, res_3s",
        "gamma has c3^3 for c3^2: order 2",
        "res-3m-compat, res-3s-compat",
        "res-3m, res-3s",
        ("res::res4lyfs_gamma_has_a_third_power_of_c3_where_its_condition_has_a_square",),
        ("res::the_wrong_power_costs_one_order", "single_step::the_gamma_of_res4lyf_is_of_order_two_unless_its_last_stage_ends_the_step"),
    ),
    Erratum(
        "diffusers: SASolver",
        "tau taken at the start of a step, also of the last",
        "sa-solver tau_at=start",
        "sa-solver",
        ("references::sa_solver_with_tau_at_the_start_of_a_step_equals_diffusers",),
        ("sa_solver::its_drift_has_the_order_of_predictor_and_corrector", "sa_solver::noise_is_injected_inside_the_window_alone"),
    ),
    Erratum(
        "diffusers: DEIS",
        "the polynomial is in log rho, not in t (a convention)",
        "deis-log-rho",
        "deis-tab3",
        ("references::the_deis_of_diffusers_is_noise_prediction_polynomial_in_lambda",),
        ("deis::tab_integrates_lagrange_polynomials_in_t_against_rho", ORDER_LAW),
    ),
    Erratum(
        "k-diffusion, diffusers: DPM++ SDE",
        "stage and step correlate as a Brownian motion over sigma",
        "dpmpp-sde-compat",
        "dpmpp-sde",
        ("single_step::dpmpp_sde_compat_has_the_noise_of_a_brownian_motion_over_sigma",),
        ("single_step::the_noise_of_a_stage_and_of_its_step_correlate_as_ito_says_and_not_over_sigma", ORDER_LAW),
    ),
    Erratum(
        "MRS: ODE-3",
        "half the second derivative: order 2",
        "mrs-ode-3-compat",
        "mrs-ode-3",
        ("mean_reverting::mrs_presets_are_the_formulas_of_their_paper",),
        ("mean_reverting::the_order_of_a_method_is_the_same_around_mu",),
    ),
    Erratum(
        "ER-SDE-Solver-3, as published",
        "the derivative from the last difference alone: drift of order 2",
        "er-sde-3",
        "er-sde-3 moment=exact",
        ("er_sde::the_rows_are_the_published_formulas",),
        ("er_sde::the_drift_of_the_third_is_of_order_three_when_its_derivatives_are_exact",),
    ),
    Erratum(
        "DC-Solver: sample()",
        "takes the ratios off the caller's list, so that a second call fails",
        "",
        "dc-solver",
        ("dc_solver::ratios_are_one_per_step_and_stay_the_callers",),
        ("dc_solver::dc_solver_is_a_buffer_whose_newest_entry_is_replaced", ORDER_LAW),
    ),
    Erratum(
        "diffusers: float32 tables",
        "rounding, up to 6e-6",
        "",
        "every preset of that page",
        ("references::unipc_equals_diffusers",),
        ("references::unipc_equals_diffusers",),
    ),
)

NOT_REPRODUCED = {
    "diffusers: sde-dpmsolver of order 3": "has no branch and raises; there is nothing to equal",
    "diffusers: singlestep of order 3 at 3n - 1 steps": "gave NaN before its fix; the fixed one is equalled at 8, 9 and 10 steps",
    "diffusers: DEIS on Karras grids": "repeats its last sigma; a grid that does not fall is refused here",
    "th_deis, diff-sampler: tAB": "integrals by sums of 10^4 rectangles, off by 1e-4; a rounding of the same method",
    "diff-sampler: ipndm of order 1, deis of rhoab": "an IndexError, and coefficients of one order too many from its caller",
    "res.py: 2heun_naive": "converts the stage with the state of another time, off by the size of the state; of no order, and not kept",
    "RES4LYF: abnorsett": "the weights of constant steps on any grid; the right ones are `res-2m` and `res-3m`",
    "RES4LYF: res_2m, res_3m where h is above 1": "falls back to single steps: a rule about lists of steps, which can be written as one",
    "SEEDS: EDM variants, and the last step": "the first return the state or raise a NameError; the last step is left out on purpose",
    "momentum: velocity of v-predictions, UniPC": "starts from the unconverted output; that of UniPC is overwritten, which leaves UniPC",
    "MRS: interpolated alpha, sigma and lambda": "do not belong to one process off its grid; np.int fails with today's numpy",
    "USF: implicit corrector, zero_x0": "never asks again, which is mode pec; takes x for eps, which the importer does as published",
}
