"""The signal plane: what runtimes and GPUs say, carried from the node they run on to every router.

On a GPU node: `adapters` read one runtime or the GPUs, `sampler` asks them at a pace that follows the load,
`publisher` keeps the newest state of each model and streams it to whoever subscribes on the mesh port.
On a router: `subscriber` follows one peer through a `mesh_dialer`, `liveness` decides from the stream alone whether
the peer lives, `codec` turns messages into checked values.

Not here: what the states mean for a choice (`core.fusion`, `core.routing`), and who owns the kernel.
Duties of the node that puts this together: one task per `run_sampler`, `run_gpu_sampler` and `run_subscriber`; a
`state_service` among the services of its mesh port, where routers subscribe and adapters of their own processes report
(they use `report_client`); what subscribers report goes into the control loop's mailbox.
"""
