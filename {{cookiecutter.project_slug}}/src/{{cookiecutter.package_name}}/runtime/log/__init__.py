"""The log: records of every process, collected by one reader and written on."""
