"""What a method, a network or a dataset promises, as tests that anybody can run on a class of his own.

By name, from any folder, where the project is installed (``make setup``, or ``pip install``)::

    pytest --pyargs bacs.contracts --target mylab.methods.MyLoss --set weight=0.5

or as a test among others, where what the class needs can be said once and for all::

    from bacs.contracts.methods import MethodContract

    class TestMyLoss(MethodContract):
        target = "mylab.methods.MyLoss"
        settings = {"weight": 0.5}

and likewise with :class:`bacs.contracts.networks.NetworkContract` and :class:`bacs.contracts.datasets.DatasetContract`.
Naming a class here allows its package to be loaded, as ``plugins=[mylab]`` does. ``-m "not slow"`` leaves out what
takes long.
"""
