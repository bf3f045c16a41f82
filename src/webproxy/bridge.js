// The bridge's script.
