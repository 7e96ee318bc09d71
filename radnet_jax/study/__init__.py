"""A study: datasets, pretrainings, and starts x tasks x protocols x fractions x seeds, run to a report; resumable.

    run       the whole of it
    spec      what the config says, checked; naming: of a task's own configs
    expand    from there to jobs
    check     what is refused before anything runs
    claims    who does which job, over several machines; board: doing them
    processes several jobs at once on one machine
    costs     what a study will take
    finish    the report

By default one process runs all of it, so that compiled functions, the compilation cache and features are shared.
"""
