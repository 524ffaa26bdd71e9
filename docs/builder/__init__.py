"""The documents as a site: drawings, pages of reference that are generated, and the build."""
