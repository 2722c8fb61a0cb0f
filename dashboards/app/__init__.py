"""The web dashboard, served by Streamlit."""
