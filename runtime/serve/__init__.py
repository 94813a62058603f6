"""guardpass.serve: guards behind HTTP, in the shapes that clients have already."""
