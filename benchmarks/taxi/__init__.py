"""DangerousTaxi: gymnasium's Taxi as text, in which every illegal act ends the episode."""
