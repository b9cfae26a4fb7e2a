"""Where the stacks of a command are searched: in this process, in several, on several machines."""
