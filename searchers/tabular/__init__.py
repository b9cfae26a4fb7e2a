"""Table-only methods: they ask for cells and are told fitness; `registry` lists them."""
