"""Pages and reports over the store; arrives with the dashboard."""
